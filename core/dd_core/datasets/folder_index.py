"""The index of a folder's image files, each of which is read and checked once.

For every file the index keeps size, modification time, sha256 and `Header`, so that later only size and time are
compared before images are loaded and oddities reported. A file whose content changes while size and time stay the same
goes unnoticed, until it is decoded again and its sha256 differs. Unreadable files are not in the index: they are
examined again each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from dd_core import artefacts, store
from dd_core.config import canonical
from dd_core.datasets.decoding import VERSION, Header, ImageFile, Unreadable, examine, quiet
from dd_core.datasets.folder_names import (
    SUFFIXES,
    counted,
    few,
    is_foreign,
    is_image,
    is_passed_over,
    printable,
    subfolders,
    visible_files,
)
from dd_core.errors import DDError, Option, UserError
from dd_core.system import parallel
from dd_core.system.parallel import Workers

Say = Callable[[str], None]
_FILES_A_JOB = 512
_VERSION = [2, VERSION]  # of the table, and of decoding
_SAVE_SECONDS = 60.0  # between two savings of an index in the making

_Stat = tuple[int, int]  # bytes, mtime in ns
_Facts = tuple[str, Header]  # sha256 and header
_ROW = (int, int, str, bool, int, int, bool, bool, int, str)  # of the index: a _Stat and _Facts


class Survey(NamedTuple):
    """The usable images of one folder, class by class and sorted by relative path, with their headers.

    remarks: lines about files that are there but are not read.
    """

    folder: Path
    files: dict[ImageFile, Header]
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
            labels = subfolders(folder) if self.labelled else []
            stats, others = _sorted_out(_class_files(folder, labels) if self.labelled else _files(folder, ""))
            loose = sum(is_image(name, folder) for name in visible_files(folder)) if self.labelled else 0
        self._require(folder, labels, stats, "no images")
        index = _Index(folder)
        facts = {name: known for name, stat in stats.items() if (known := index.look_up(name, stat))}
        problems = self._examine_rest(folder, stats, facts, index)
        if problems:
            self._report(folder, problems)
            self._require(folder, labels, facts, "no readable images")
        files = {ImageFile(name, facts[name][0]): facts[name][1] for name in stats if name in facts}
        place = "" if folder == self.path else f" in {printable(folder.name)}"
        return Survey(folder, files, tuple(_not_read(others, loose, place)))

    def _require(self, folder: Path, labels: list[str], names: Mapping[str, Any], what: str) -> None:
        """Raise `UserError` where a class, or an unlabelled folder, has none of the `names`."""
        full = {name.partition("/")[0] for name in names}
        empty = [label for label in labels if label not in full]
        if empty or not names:
            where = few(empty) if empty else "it"
            raise UserError(f"folder:{folder}: {what} in {where}; files that are read: {', '.join(SUFFIXES)}")

    def _examine_rest(
        self, folder: Path, stats: Mapping[str, _Stat], facts: dict[str, _Facts], index: _Index
    ) -> dict[str, str]:
        """Fill `facts` with files that the index does not know; returns the fault of each unreadable file, by name."""
        rest = [name for name in stats if name not in facts]
        if not rest:
            return {}
        problems: dict[str, str] = {}
        self.say(f"reading {len(rest):,} images for the first time")
        saved = time.monotonic()
        try:
            for name, result in _examined(folder, rest, self.workers):
                if isinstance(result, str):
                    problems[name] = result
                else:
                    sha256, header = result
                    facts[name] = sha256, header._replace(levels=sys.intern(header.levels))  # mostly one text for all
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self.say(f"read {len(facts) + len(problems):,} of {len(stats):,} images")
                    index.save(stats, facts, say=self.say)
                    saved = time.monotonic()
        finally:
            index.save(stats, facts, say=self.say)
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


def _not_read(others: Sequence[str], loose: int, place: str) -> Iterator[str]:
    """Lines about `others`, which are no images, and about `loose`, the number of images in no class folder."""
    if others:
        noun = "file that is" if len(others) == 1 else "files that are"
        yield f"left out {len(others):,} {noun} not read{place}: {counted(others)}"
    if loose:
        noun = "image" if loose == 1 else "images"
        yield f"left out {loose:,} {noun} beside the class folders{place}: in no class"


def _sorted_out(entries: Iterable[tuple[str, _Stat | None]]) -> tuple[dict[str, _Stat], list[str]]:
    """The stats of the images, by name, and the names of other files."""
    stats: dict[str, _Stat] = {}
    others: list[str] = []
    for name, stat in entries:
        if stat is None:
            others.append(name)
        else:
            stats[name] = stat
    return stats, others


def _class_files(folder: Path, labels: Sequence[str]) -> Iterator[tuple[str, _Stat | None]]:
    """The files of each class, sorted, one class after the other."""
    for label in labels:
        yield from _files(folder / label, f"{label}/")


def _files(folder: Path, prefix: str) -> list[tuple[str, _Stat | None]]:
    return sorted(_walk(folder, prefix, ()), key=lambda entry: entry[0])


def _walk(folder: Path, prefix: str, above: tuple[_Stat, ...]) -> Iterator[tuple[str, _Stat | None]]:
    """(relative path, stat) of the files below `folder`; no stat for a file that is no image.

    A link back to a folder above is not followed.
    """
    here = (folder.stat().st_dev, folder.stat().st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not is_passed_over(entry.name)]
    for entry in visible:
        if entry.is_dir():
            if not is_foreign(folder / entry.name):
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif is_image(entry.name, folder):
            # of a dangling link, the link's own stat; reading the file then fails with the reason
            stat = entry.stat(follow_symlinks=entry.is_file())
            yield prefix + entry.name, (stat.st_size, stat.st_mtime_ns)
        else:
            yield prefix + entry.name, None


# --- what is known of the files -----------------------------------------------------------------------------


class _Index:
    """The facts about the files of one folder. A damaged index, or another Pillow's, counts as empty."""

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()
        self.path = artefacts.cache_folder() / "index" / f"{name}.json"
        self.rows: dict[str, Any] = {}
        content: Any = None
        with suppress(UserError):
            content = store.read_json(self.path)
        if isinstance(content, dict) and content.keys() == {"version", "pillow", "files"}:
            known = content["version"] == _VERSION and content["pillow"] == PIL.__version__
            self.rows = content["files"] if known and isinstance(content["files"], dict) else {}

    def look_up(self, name: str, stat: _Stat) -> _Facts | None:
        """The facts about a file, unless it changed."""
        row = self.rows.get(name)
        if not isinstance(row, list) or tuple(map(type, row)) != _ROW or tuple(row[:2]) != stat:
            return None
        header = Header(*row[3:])
        with suppress(ValueError):
            bytes.fromhex(header.levels)
            return (row[2], header) if min(header.width, header.height) > 0 else None
        return None

    def save(self, stats: Mapping[str, _Stat], facts: Mapping[str, _Facts], *, say: Say) -> None:
        """Write the facts to the cache; `say` is told where it cannot be written, which costs only time."""
        try:
            store.write_bytes(self.path, _text(stats, facts))
        except DDError as error:
            say(f"{error}; every image will be read again next time")


def _text(stats: Mapping[str, _Stat], facts: Mapping[str, _Facts]) -> Iterator[bytes]:
    """The canonical JSON of an index, a row at a time: all rows together would take as much memory as the facts."""
    whole = canonical({"version": _VERSION, "pillow": PIL.__version__, "files": {}})
    before, after = whole.split("{}")
    yield before.encode()
    for number, (name, (sha256, header)) in enumerate(sorted(facts.items())):
        row = json.dumps({name: [*stats[name], sha256, *header]}, separators=(",", ":"))  # as `canonical`, but faster
        yield ("{" if number == 0 else ",").encode() + row[1:-1].encode()
    yield ("}" if facts else "{}").encode() + after.encode()


def _examined(folder: Path, names: list[str], workers: Workers) -> Iterator[tuple[str, _Facts | str]]:
    batches = [(folder, names[at : at + _FILES_A_JOB]) for at in range(0, len(names), _FILES_A_JOB)]
    for results in parallel.run(_examine_batch, batches, workers=local(workers, len(batches)), uses_torch=False):
        yield from results


def local(workers: Workers, jobs: int) -> Workers:
    """Processes of this machine, whatever `workers` are: the nodes of a cluster need not have the folder.

    No more than the machine has cores, nor than there are jobs: a single job is done sooner than a process has started.
    """
    return Workers(count=min(workers.count, jobs, os.cpu_count() or 1))


def _examine_batch(batch: tuple[Path, list[str]]) -> list[tuple[str, _Facts | str]]:
    folder, names = batch
    with quiet():
        return [(name, _examine(folder / name)) for name in names]


def _examine(path: Path) -> _Facts | str:
    """The facts about a file, or what is wrong with it."""
    try:
        data = path.read_bytes()
        header = examine(data)
    except OSError as error:
        return os.strerror(error.errno or 0)
    except Unreadable as reason:
        return str(reason)
    return hashlib.sha256(data).hexdigest(), header
