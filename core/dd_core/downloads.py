"""torchvision's image data sets as `LabelledImages`; what is not there yet is downloaded, or asked for by name.

torchvision's own layout below the root is kept, so that files of another project can be used. It downloads
into a folder beside it, from where whole files are moved: a kill leaves nothing that looks complete.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dd_core import store
from dd_core.errors import UserError
from dd_core.images import LabelledImages

_SECONDS = 30.0  # without a byte from the server before a download has failed
_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class _Home:
    """How torchvision calls a data set, and the archives (path below the root, md5) that its `split` needs."""

    kind: str
    archives: Callable[[Any, str], list[tuple[str, str]]]
    takes_split: bool = False
    classes: tuple[str, ...] | None = None


def _idx(kind: Any, split: str) -> list[tuple[str, str]]:
    return [(f"{kind.__name__}/raw/{name}", md5) for name, md5 in kind.resources]


def _whole(kind: Any, split: str) -> list[tuple[str, str]]:
    return [(kind.filename, kind.tgz_md5)]


def _by_split(kind: Any, split: str) -> list[tuple[str, str]]:
    return [tuple(kind.split_list[split][1:3])]


_HOMES = {
    "mnist": _Home("MNIST", _idx, classes=_DIGITS),
    "fashion-mnist": _Home("FashionMNIST", _idx),
    "kmnist": _Home("KMNIST", _idx),
    "usps": _Home("USPS", _by_split, classes=_DIGITS),
    "cifar10": _Home("CIFAR10", _whole),
    "cifar100": _Home("CIFAR100", _whole),
    "svhn": _Home("SVHN", _by_split, takes_split=True, classes=_DIGITS),
    "stl10": _Home("STL10", _whole, takes_split=True),
}


def load(name: str, *, split: str, root: Path) -> LabelledImages:
    """A data set from the files below `root`, downloaded first where they are missing.

    Raises `UserError` naming the files and their folder where that fails.
    """
    try:
        found = _open(name, split, root)
    except Exception as reason:  # torchvision raises whatever reading a missing or damaged file raises
        _fetch(name, split, root)
        try:
            found = _open(name, split, root)
        except Exception as again:
            raise UserError(f"{name}: the files in {root} cannot be read: {_line(again)}") from reason
    return _convert(name, found)


def _open(name: str, split: str, root: Path, *, download: bool = False) -> Any:
    import torchvision

    home = _HOMES[name]
    side = {"split": split} if home.takes_split else {"train": split == "train"}
    # torchvision prints to stdout, which belongs to results; its progress bar goes to stderr
    with redirect_stdout(io.StringIO()):
        return getattr(torchvision.datasets, home.kind)(str(root), download=download, **side)


def _convert(name: str, found: Any) -> LabelledImages:
    pixels = np.asarray(found.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(found.labels if hasattr(found, "labels") else found.targets, dtype=np.int64)
    classes = _HOMES[name].classes or tuple(found.classes)
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return LabelledImages(images, torch.from_numpy(labels), classes, name)


# --- getting the files ---------------------------------------------------------------------------------------


def _fetch(name: str, split: str, root: Path) -> None:
    with store.disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        _borrow_archives(name, split, root, staging)
        with _patience(_SECONDS):
            _open(name, split, staging, download=True)
        with store.disk_errors(root):
            _move_files(staging, root)
    except UserError:
        raise
    except Exception as reason:  # no network, no server, wrong checksum, full disk ...
        raise UserError(_please_put(name, split, root, reason)) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _archives(name: str, split: str) -> list[tuple[str, str]]:
    import torchvision

    home = _HOMES[name]
    return home.archives(getattr(torchvision.datasets, home.kind), split)


def _borrow_archives(name: str, split: str, root: Path, staging: Path) -> None:
    """Archives that the user put there are used from where they lie."""
    for archive, _ in _archives(name, split):
        if (root / archive).is_file():
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
    """A limit for silent connections; torchvision sets none and would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _please_put(name: str, split: str, root: Path, reason: Exception) -> str:
    from torchvision.datasets.utils import check_integrity

    missing: list[str] = []
    damaged: list[str] = []
    for archive, md5 in _archives(name, split):
        if not (root / archive).is_file():
            missing.append(archive)
        elif not check_integrity(root / archive, md5):
            damaged.append(archive)
    folder = (root / (missing + damaged or [name])[0]).parent
    files = ", ".join(Path(archive).name for archive in missing + damaged)
    wrong = f" ({', '.join(Path(a).name for a in damaged)} there: wrong checksum)" if damaged else ""
    return f"{name} cannot be downloaded ({_line(reason)}); put {files} into {folder}{wrong}"


def _line(error: Exception) -> str:
    """The last non-empty line of a message: torchvision lists every mirror that it tried, and then why."""
    with suppress(IndexError):
        return [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    return type(error).__name__
