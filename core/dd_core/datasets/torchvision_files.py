"""torchvision's data sets: their archives, and downloading those that are missing.

Missing files are downloaded by torchvision, or the user is told which file to put where. torchvision's own layout below
the root is kept, so that files of another project can be used. A download goes into a staging folder, from which whole
files are moved: a kill leaves no partial file that looks complete.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from dd_core import store
from dd_core.datasets.unpacked import Unpacked, of_batches, of_idx
from dd_core.errors import UserError

DIGITS = tuple("0123456789")
_SILENT_SECONDS = 30.0  # without a byte from the server, until a download counts as failed

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
_STL10 = "airplane bird car cat deer dog horse monkey ship truck"


@dataclass(frozen=True)
class Home:
    """What torchvision calls a data set, and the archives (path below the root, md5) that each split of it needs.

    unpacked: the files from these archives that torchvision reads; None where it reads the archives themselves.
    classes: class names where torchvision gives none; in_its_files: names that torchvision reads with the images.
    """

    kind: str
    archives: Callable[[Any, str], list[tuple[str, str]]]
    unpacked: Callable[[Any, str], list[Unpacked]] | None = None
    takes_split: bool = False
    classes: tuple[str, ...] | None = None
    in_its_files: str = ""


def _idx(kind: Any, split: str) -> list[tuple[str, str]]:
    return [(f"{kind.__name__}/raw/{name}", md5) for name, md5 in kind.resources]


def _whole(kind: Any, split: str) -> list[tuple[str, str]]:
    return [(kind.filename, kind.tgz_md5)]


def _by_split(kind: Any, split: str) -> list[tuple[str, str]]:
    return [tuple(kind.split_list[split][1:3])]


HOMES = {
    "mnist": Home("MNIST", _idx, of_idx, classes=DIGITS),
    "fashion-mnist": Home("FashionMNIST", _idx, of_idx),
    "kmnist": Home("KMNIST", _idx, of_idx),
    "usps": Home("USPS", _by_split, classes=DIGITS),
    "cifar10": Home("CIFAR10", _whole, of_batches, in_its_files=_CIFAR10),
    "cifar100": Home("CIFAR100", _whole, of_batches, in_its_files=_CIFAR100),
    "svhn": Home("SVHN", _by_split, takes_split=True, classes=DIGITS),
    "stl10": Home("STL10", _whole, of_batches, takes_split=True, in_its_files=_STL10),
}


def _datasets() -> ModuleType:
    import torchvision  # takes seconds to import, and digits and folders do without

    return torchvision.datasets


def class_names(name: str) -> tuple[str, ...]:
    """The names of the classes of one of `HOMES`; nothing is downloaded."""
    home = HOMES[name]
    return home.classes or tuple(home.in_its_files.split()) or tuple(getattr(_datasets(), home.kind).classes)


def opened(name: str, split: str, root: Path) -> Any:
    """torchvision's data set from the files below `root`, downloaded first where they are missing or damaged.

    Raises `UserError` for a data set that is neither there nor can be downloaded.
    """
    return _open_if_there(name, split, root) or _fetch(name, split, root)


def _open(name: str, split: str, root: Path, *, download: bool = False) -> Any:
    home = HOMES[name]
    side = {"split": split} if home.takes_split else {"train": split == "train"}
    # torchvision prints to stdout, which belongs to results; its progress bar goes to stderr
    with redirect_stdout(io.StringIO()):
        return getattr(_datasets(), home.kind)(str(root), download=download, **side)


def _fetch(name: str, split: str, root: Path) -> Any:
    """Download under a lock: two processes download once, and what a killed process left is removed."""
    with store.disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{name}.lock").acquire()
    staging = root / f".{name}.partial"
    try:
        if (dataset := _open_if_there(name, split, root)) is not None:
            return dataset
        shutil.rmtree(staging, ignore_errors=True)
        _borrow_archives(name, split, root, staging)
        with _patience(_SILENT_SECONDS):
            _open(name, split, staging, download=True)
        _move_files(staging, root)
        return _open(name, split, root)
    except Exception as reason:  # no network, no server, wrong checksum ...
        with store.disk_errors(root):
            _raise_if_full(reason)
        raise UserError(_advice(name, split, root, reason)) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.lock.release()


def _open_if_there(name: str, split: str, root: Path) -> Any:
    """torchvision's data set, or None where a file is missing or damaged."""
    if HOMES[name].unpacked is of_idx and _damages(name, split, root):  # torchvision checks others itself
        return None
    try:
        return _open(name, split, root)
    except Exception:  # whatever torchvision raises when it reads a file that is not what it should be
        return None


def _damages(name: str, split: str, root: Path) -> list[tuple[Path, str]]:
    """The unpacked files that are damaged, each with what is wrong with it."""
    home = HOMES[name]
    files = [] if home.unpacked is None else home.unpacked(getattr(_datasets(), home.kind), split)
    return [(root / file.path, damage) for file in files if (damage := file.damage(root)) is not None]


def _archives(name: str, split: str) -> list[tuple[str, str]]:
    home = HOMES[name]
    return home.archives(getattr(_datasets(), home.kind), split)


def _is_whole(archive: Path, md5: str) -> bool:
    return _datasets().utils.check_integrity(archive, md5)


def _borrow_archives(name: str, split: str, root: Path, staging: Path) -> None:
    """Link undamaged archives that lie below `root` into `staging`, so that they are not downloaded again."""
    for archive, md5 in _archives(name, split):
        # a damaged archive would be overwritten through the link, and a kill could leave half of the new one
        if _is_whole(root / archive, md5):
            (staging / archive).parent.mkdir(parents=True, exist_ok=True)
            (staging / archive).symlink_to((root / archive).absolute())


def _move_files(staging: Path, root: Path) -> None:
    for file in sorted(staging.rglob("*")):
        if file.is_file() and not file.is_symlink():
            target = root / file.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Within the block, connections fail after `seconds` of silence; torchvision alone would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _raise_if_full(error: BaseException | None) -> None:
    """Raise the OSError of a full disk that led to `error`, if one did: torchvision goes on and hides it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in store.DISK_FULL:
            raise error
        error = error.__cause__ or error.__context__


def _advice(name: str, split: str, root: Path, reason: Exception) -> str:
    """What the user should do: which archives to put where, or to remove where all are there and undamaged."""
    missing: list[str] = []
    damaged: list[str] = []
    for archive, md5 in _archives(name, split):
        if not (root / archive).is_file():
            missing.append(archive)
        elif not _is_whole(root / archive, md5):
            damaged.append(archive)
    if not missing + damaged:
        archives = ", ".join(str(root / archive) for archive, _ in _archives(name, split))
        return f"{name} cannot be unpacked ({_line(reason)}); remove {archives} and run again, or use another copy"
    folder = (root / (missing + damaged)[0]).parent
    spoilt = "; ".join(f"{path}: {damage}" for path, damage in _damages(name, split, root))
    files = ", ".join(Path(archive).name for archive in missing + damaged)
    wrong = f" ({', '.join(Path(a).name for a in damaged)} there: wrong checksum)" if damaged else ""
    advice = f"cannot be downloaded ({_line(reason)}); put {files} into {folder}{wrong}"
    return f"{name} is damaged ({spoilt}), and {advice}" if spoilt else f"{name} {advice}"


def _line(error: Exception) -> str:
    """The last non-empty line of a message: torchvision lists every mirror that it tried, and then the reason."""
    with suppress(IndexError):
        return [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    return type(error).__name__
