"""The index of a folder's image files, each of which is read and checked once.

For every file the index keeps size, modification time, sha256 and `Header`, so that later only size and time are
compared before images are loaded and oddities reported. A file whose content changes while size and time stay the same
goes unnoticed, until it is decoded again and its sha256 differs. Unreadable files are not in the index: they are
examined again each time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from dd_core import artefacts, store
from dd_core.datasets.decoding import VERSION, Header, Unreadable, examine, quiet
from dd_core.datasets.file_rows import HEADER, Headers, ImageFiles, Names
from dd_core.datasets.folder_names import (
    SUFFIXES,
    counted,
    few,
    is_foreign,
    is_image,
    is_passed_over,
    printable,
    subfolders,
    suffix_of,
    visible_files,
)
from dd_core.errors import DDError, Option, UserError
from dd_core.system import parallel
from dd_core.system.parallel import Workers

Say = Callable[[str], None]
_FILES_A_JOB = 512
_SAVE_SECONDS = 60.0  # between two savings of an index in the making
_TOGETHER = 4096  # rows that are copied at a time
_MOST = 2**63 - 1  # a time in ns after the year 2262 takes more bits

_Facts = tuple[bytes, Header]  # sha256 and header
_INDEX = store.Format(
    kind="dd-apps.folder-index",
    names="names|ends|stats|sha256|headers|levels|level_ends",
    keys=frozenset({"examined"}),
    file_bytes=64 << 30,
    header_bytes=1 << 20,
    tensors=7,
)
_EXAMINED = [VERSION, PIL.__version__]  # by which decoding


class Survey(NamedTuple):
    """The usable images of one folder, class by class and sorted by relative path, and what is known of each.

    classes: how many images lie in each class folder, in the order of `files`; one entry, "", without labels. remarks:
    lines about files that are there but are not read.
    """

    folder: Path
    files: ImageFiles
    headers: Headers
    classes: dict[str, int]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Surveyor:
    """How folders below `path` are read. `say` is told what takes long and what is left out."""

    path: Path
    skip_corrupt: bool
    workers: Workers
    say: Say
    labelled: bool = True

    def survey(self, folder: Path) -> Survey:
        """Every image in the class folders of `folder` (unlabelled: anywhere below it), from the index where unchanged.

        Raises `UserError` for a class without images and, unless `skip_corrupt`, for an unreadable image.
        """
        with store.disk_errors(folder):
            found = _listed(folder, subfolders(folder) if self.labelled else [""])
            loose = sum(is_image(name, folder) for name in visible_files(folder)) if self.labelled else 0
        self._require(folder, found.classes, "no images")
        problems = self._examine_rest(folder, found)
        if problems:
            self._report(folder, problems)
            found = found.known()
            self._require(folder, found.classes, "no readable images")
        place = "" if folder == self.path else f" in {printable(folder.name)}"
        files, remarks = ImageFiles(found.names, found.sha256), tuple(_not_read(found.others, loose, place))
        return Survey(folder, files, found.headers, found.classes, remarks)

    def _require(self, folder: Path, classes: Mapping[str, int], what: str) -> None:
        """Raise `UserError` where a class, or an unlabelled folder, has no images."""
        empty = [label for label, count in classes.items() if not count]
        if empty or not classes:
            where = few(empty) if any(empty) else "it"
            raise UserError(f"folder:{folder}: {what} in {where}; files that are read: {', '.join(SUFFIXES)}")

    def _examine_rest(self, folder: Path, found: _Found) -> dict[str, str]:
        """Fill the rows of all files that can be read; returns the fault of each that cannot, by name."""
        index = _Index(folder)
        index.fill(found)
        rest = np.flatnonzero(~found.headers.known)
        problems: dict[str, str] = {}
        if not len(rest):
            return problems
        self.say(f"reading {len(rest):,} images for the first time")
        saved = time.monotonic()
        try:
            for done, (row, result) in enumerate(_examined(folder, found.names, rest, self.workers), 1):
                if isinstance(result, str):
                    problems[found.names[row]] = result
                else:
                    sha256, header = result
                    found.sha256[row] = np.frombuffer(sha256, dtype=np.uint8)
                    found.headers.put(row, header)
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self.say(f"read {len(found.names) - len(rest) + done:,} of {len(found.names):,} images")
                    index.save(found, say=self.say)
                    saved = time.monotonic()
        finally:
            index.save(found, say=self.say)
        return problems

    def _report(self, folder: Path, problems: Mapping[str, str]) -> None:
        first = min(problems)
        where = printable((folder / first).relative_to(self.path).as_posix())
        many = len(problems)
        if self.skip_corrupt:
            noun = "image" if many == 1 else f"images, the first of {many}"
            self.say(f"left out {many} unreadable {noun}: {where}: {problems[first]}")
            return
        more = f" (and {many - 1} more like it)" if many > 1 else ""
        advice = f"repair it, remove it, or leave it out with {Option('skip_corrupt', True)}"
        raise UserError(f"folder:{self.path}: {where}: {problems[first]}{more}; {advice}")


# --- names --------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """The images below a folder and what is known of them, class by class.

    stats: int64 (N, 2), bytes and modification time in ns. sha256: uint8 (N, 32). others: how many files are not read,
    by suffix.
    """

    names: Names
    stats: np.ndarray
    sha256: np.ndarray
    headers: Headers
    classes: dict[str, int]
    others: Counter[str]

    def known(self) -> _Found:
        """Those of which more is known than size and time."""
        known = self.headers.known
        ends = list(accumulate(self.classes.values(), initial=0))
        counts = [int(known[begin:end].sum()) for begin, end in pairwise(ends)]
        classes = dict(zip(self.classes, counts, strict=True))
        return self._take(np.flatnonzero(known))._replace(classes=classes)

    def by_name(self) -> _Found:
        """The same with the names in order, as the index has them.

        Class by class they need not be: class 'cat' comes before 'cat big', but 'cat big/1.png' before 'cat/1.png'.
        """
        if len(self.classes) == 1 or [*self.classes] == sorted(self.classes, key=lambda label: f"{label}/"):
            return self
        ends = dict(zip(self.classes, accumulate(self.classes.values()), strict=True))
        ordered = sorted(self.classes, key=lambda label: f"{label}/")
        rows = np.concatenate([np.arange(ends[label] - self.classes[label], ends[label]) for label in ordered])
        return self._take(rows)

    def _take(self, rows: np.ndarray) -> _Found:
        names, headers = self.names.take(rows), self.headers.take(rows)
        return self._replace(names=names, stats=self.stats[rows], sha256=self.sha256[rows], headers=headers)


def _not_read(others: Counter[str], loose: int, place: str) -> Iterator[str]:
    """Lines about files that are no images, and about `loose`, the number of images in no class folder."""
    if others:
        noun = "file that is" if others.total() == 1 else "files that are"
        yield f"left out {others.total():,} {noun} not read{place}: {counted(others)}"
    if loose:
        noun = "image" if loose == 1 else "images"
        yield f"left out {loose:,} {noun} beside the class folders{place}: in no class"


def _listed(folder: Path, labels: list[str]) -> _Found:
    """The images in the class folders `labels`, or in `folder` itself for the label ""."""
    stats = array("q")
    classes, others = dict[str, int](), Counter[str]()

    def images() -> Iterator[str]:
        for label in labels:
            before = len(stats)
            for name, found in _walk(folder / label, f"{label}/" if label else "", ()):
                if found is None:
                    others[suffix_of(name)] += 1
                else:
                    stats.extend((found.st_size, found.st_mtime_ns & _MOST))
                    yield name
            classes[label] = (len(stats) - before) // 2

    names = Names.of(images())
    count = len(names)
    sizes_and_times = np.frombuffer(stats, dtype=np.int64).reshape(count, 2)
    headers = Headers(np.zeros(count, dtype=HEADER))
    return _Found(names, sizes_and_times, np.zeros((count, 32), dtype=np.uint8), headers, classes, others)


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, os.stat_result | None]]:
    """(relative path, stat) of the files below `folder`, sorted by path; no stat for a file that is no image.

    A link back to a folder above is not followed.
    """
    here = (folder.stat().st_dev, folder.stat().st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        # with a slash, a folder is where the paths below it are in order
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries if _is_seen(entry.name))
    for name in names:
        if name.endswith("/"):
            if not is_foreign(folder / name[:-1]):
                yield from _walk(folder / name[:-1], prefix + name, (*above, here))
        else:
            yield prefix + name, _stat(os.path.join(folder, name)) if is_image(name, folder) else None


def _is_seen(name: str) -> bool:
    return not is_passed_over(name)


def _stat(path: str) -> os.stat_result:
    """Of a dangling link, the link's own; reading the file then fails with the reason."""
    with suppress(FileNotFoundError):
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            return found
    return os.lstat(path)


# --- what is known of the files -----------------------------------------------------------------------------


class _Index:
    """The facts about the files of one folder. A damaged index, or another Pillow's, counts as empty."""

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()
        self.path = artefacts.cache_folder() / "index" / f"{name}.safetensors"

    def fill(self, found: _Found) -> None:
        """What is known of the files that did not change."""
        with suppress(DDError):
            tensors, body = store.read_container(self.path, _INDEX)
            if body["examined"] == _EXAMINED and _is_table(tensors):
                _fill(found, _from_tensors(tensors))

    def save(self, found: _Found, *, say: Say) -> None:
        """Write what is known to the cache; `say` is told where it cannot be written, which costs only time."""
        known = found if found.headers.known.all() else found.known()
        try:
            store.write_container(self.path, _INDEX, _to_tensors(known.by_name()), {"examined": _EXAMINED})
            with suppress(OSError):
                self.path.with_suffix(".json").unlink()  # of an earlier version, which wrote JSON
        except DDError as error:
            say(f"{error}; every image will be read again next time")


def _to_tensors(found: _Found) -> dict[str, np.ndarray]:
    levels = Names.of(found.headers.levels)
    return {
        **{"names": found.names.block, "ends": found.names.ends, "levels": levels.block, "level_ends": levels.ends},
        **{"stats": found.stats, "sha256": found.sha256},
        "headers": found.headers.table.view(np.uint8).reshape(-1, HEADER.itemsize),
    }


def _from_tensors(tensors: Mapping[str, np.ndarray]) -> _Found:
    headers = Headers(tensors["headers"].view(HEADER)[:, 0], Names(tensors["levels"], tensors["level_ends"]))
    names = Names(tensors["names"], tensors["ends"])
    return _Found(names, tensors["stats"], tensors["sha256"], headers, {}, Counter())


def _is_table(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the tensors of an index are what `_to_tensors` gives."""
    if {*tensors} != {"names", "ends", "stats", "sha256", "headers", "levels", "level_ends"}:
        return False
    count, texts = len(np.atleast_1d(tensors["ends"])), (tensors["levels"], tensors["level_ends"])
    shapes = {"stats": ("int64", (count, 2)), "sha256": ("uint8", (count, 32))}
    shapes["headers"] = ("uint8", (count, HEADER.itemsize))
    if any((tensors[name].dtype.name, tensors[name].shape) != shape for name, shape in shapes.items()):
        return False
    if not _are_names(tensors["names"], tensors["ends"]) or not _are_names(*texts):
        return False
    table, levels = tensors["headers"].view(HEADER), set(Names(*texts))
    sound = (table["height"] > 0) & (table["width"] > 0) & (table["levels"] >= 0) & (table["levels"] < len(levels))
    for name in ("grey", "transparent", "constant"):
        sound &= table[name].view(np.uint8) <= 1
    with suppress(ValueError):
        for text in levels:
            bytes.fromhex(text)
        return len(levels) == len(texts[1]) and bool(sound.all())
    return False


def _are_names(block: np.ndarray, ends: np.ndarray) -> bool:
    if (block.dtype, block.ndim, ends.dtype, ends.ndim) != (np.uint8, 1, np.int64, 1):
        return False
    return bool((np.diff(ends, prepend=0) >= 0).all()) and (int(ends[-1]) if len(ends) else 0) == len(block)


def _fill(found: _Found, known: _Found) -> None:
    """Fill what is known of files that have the size and time that they had; the names of `known` are in order."""
    pairs, at, numbers = list[tuple[int, int]](), 0, found.headers.numbers_of(known.headers.levels)
    for row, name in enumerate(found.names):
        if at == len(known.names) or known.names[at] != name:  # most often a name follows the one before
            at = bisect_left(known.names, name)
        if at < len(known.names) and known.names[at] == name:
            pairs.append((row, at))
            at += 1
        if len(pairs) == _TOGETHER or (pairs and row == len(found.names) - 1):
            _copy(found, known, np.array(pairs), numbers)
            pairs.clear()


def _copy(found: _Found, known: _Found, pairs: np.ndarray, numbers: np.ndarray) -> None:
    """Copy what is known of each pair (row of `found`, row of `known`) whose size and time are the same."""
    same = (found.stats[pairs[:, 0]] == known.stats[pairs[:, 1]]).all(axis=1)
    rows, others = pairs[same].T
    found.sha256[rows] = known.sha256[others]
    found.headers.copy(rows, known.headers.table[others], numbers)


def _examined(folder: Path, names: Names, rows: np.ndarray, workers: Workers) -> Iterator[tuple[int, _Facts | str]]:
    starts = range(0, len(rows), _FILES_A_JOB)
    batches = ((folder, [*names.take(rows[at : at + _FILES_A_JOB])]) for at in starts)
    results = parallel.run(_examine_batch, batches, workers=local(workers, len(starts)), uses_torch=False)
    for at, batch in zip(starts, results, strict=True):
        yield from zip(rows[at : at + _FILES_A_JOB].tolist(), batch, strict=True)


def local(workers: Workers, jobs: int) -> Workers:
    """Processes of this machine, whatever `workers` are: the nodes of a cluster need not have the folder.

    No more than the machine has cores, nor than there are jobs: a single job is done sooner than a process has started.
    """
    return Workers(count=min(workers.count, jobs, os.cpu_count() or 1))


def _examine_batch(batch: tuple[Path, list[str]]) -> list[_Facts | str]:
    folder, names = batch
    with quiet():
        return [_examine(folder / name) for name in names]


def _examine(path: Path) -> _Facts | str:
    """The facts about a file, or what is wrong with it."""
    try:
        data = path.read_bytes()
        header = examine(data)
    except OSError as error:
        return os.strerror(error.errno or 0)
    except Unreadable as reason:
        return str(reason)
    return hashlib.sha256(data).digest(), header
