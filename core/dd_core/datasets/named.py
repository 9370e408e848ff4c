"""Real images by name: scikit-learn's digits, torchvision's data sets, and `folder:PATH` (in `folders`).

What torchvision does not find it downloads, or the user is told which file to put where. Its own layout below
the root is kept, so that files of another project can be used. It downloads into a folder beside it, from
where whole files are moved: a kill leaves nothing that looks complete.
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
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from dd_core import store, surroundings
from dd_core.artefacts import cache_folder
from dd_core.errors import UserError, unknown_name
from dd_core.system.parallel import Workers

if TYPE_CHECKING:
    from torch import Tensor

    from dd_core.images import LabelledImages, Source

DATASETS = {
    "digits": "1,797 grey 8x8 handwritten digits, 10 classes; comes with scikit-learn, needs no network",
    "mnist": "70,000 grey 28x28 handwritten digits, 10 classes",
    "fashion-mnist": "70,000 grey 28x28 articles of clothing, 10 classes",
    "kmnist": "70,000 grey 28x28 cursive Japanese characters, 10 classes",
    "usps": "9,298 grey 16x16 digits from envelopes, 10 classes",
    "cifar10": "60,000 colour 32x32 photographs, 10 classes",
    "cifar100": "60,000 colour 32x32 photographs, 100 classes",
    "svhn": "99,289 colour 32x32 house numbers, 10 classes",
    "stl10": "13,000 labelled colour 96x96 photographs, 10 classes",
    "folder:PATH": "your own images: one folder a class, or a training and a test folder with such folders inside",
}
_HELD_OUT = 0.2  # of each class of the digits, which have no test split of their own
_SILENT_SECONDS = 30.0  # without a byte from the server before a download has failed


@surroundings.own()
def load(
    name: str,
    *,
    split: str = "train",
    image_size: int | None = None,
    skip_corrupt: bool = False,
    memory_limit: int = 2 * 2**30,
    workers: Workers | None = None,
    root: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Source:
    """The "train" or "test" images of a data set: uint8 (N, C, H, W), `image_size` pixels square where that is given.

    `memory_limit` is in bytes of pixels, and a folder above it streams. Downloads go to `root`, else to
    `$DD_APPS_DATA`, else to the cache. Raises `UserError` for an unknown name, a data set that is neither
    there nor to be had, and whatever is wrong with a folder.
    """
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size is in pixels, at least 1, not {image_size}")
    if name.startswith("folder:"):
        from dd_core.datasets import folders

        return folders.load(
            _folder_path(name),
            split=split,
            image_size=image_size,
            skip_corrupt=skip_corrupt,
            memory_limit=memory_limit,
            workers=workers or Workers(count=min(8, os.cpu_count() or 1)),
            progress=progress or _silent,
        )
    images = _named(name, split, root)
    return images if image_size is None else _resized(images, image_size, memory_limit)


def class_names(name: str) -> tuple[str, ...]:
    """The names of the classes of a data set, in the order of its labels; no image is read, nothing downloaded.

    Raises `UserError` for an unknown name, and for a folder without class folders.
    """
    check_name(name)
    if name.startswith("folder:"):
        from dd_core.datasets import folders

        return folders.class_names(_folder_path(name))
    if name == "digits":
        return _DIGITS
    return _HOMES[name].classes or tuple(_HOMES[name].in_its_files.split()) or _of_torchvision(name)


def _of_torchvision(name: str) -> tuple[str, ...]:
    import torchvision

    return tuple(getattr(torchvision.datasets, _HOMES[name].kind).classes)


def check_name(name: str) -> None:
    """Raise `UserError` for what is no name of a data set; whether it is there is not looked at."""
    if name.startswith("folder:") or (name in DATASETS and name != "folder:PATH"):
        return
    if Path(name).is_dir():
        raise UserError(f"unknown data set '{name}'; for the images in that folder: folder:{name}")
    raise unknown_name("data set", name, DATASETS)


def _folder_path(name: str) -> Path:
    path = name.removeprefix("folder:")
    if not path:
        raise UserError("folder: needs a path, such as folder:my/images")
    return Path(path).expanduser()


def _silent(_: str) -> None:
    """Tell nobody."""


def once(say: Callable[[str], None], told: set[str] | None = None) -> Callable[[str], None]:
    """`say` without repetition: of a folder most lines are the same for both splits, and are told for the first.

    `told` are the lines that were said before; new ones are added.
    """
    told = set[str]() if told is None else told

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    return tell


def _named(name: str, split: str, root: Path | None) -> LabelledImages:
    check_name(name)
    if name == "digits":
        return _digits(split)
    given = root or os.environ.get("DD_APPS_DATA") or cache_folder() / "data"
    return _torchvision(name, split, Path(given).expanduser())


def _digits(split: str) -> LabelledImages:
    """scikit-learn's digits: grey levels 0 to 16, spread over 0 to 255; a fifth of each class is the test split."""
    import torch
    from sklearn.datasets import load_digits

    from dd_core.images import LabelledImages

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels * 255 / 16).round().astype("uint8")).view(-1, 1, 8, 8)
    whole = LabelledImages(images, torch.from_numpy(labels).to(torch.int64), _DIGITS, "digits")
    rest, held_out = whole.split(_HELD_OUT, seed=0)
    return rest if split == "train" else held_out


def _resized(source: LabelledImages, side: int, memory_limit: int) -> LabelledImages:
    """Every image `side` x `side`, bicubic; raises `UserError` where that would not fit into memory."""
    import torch

    from dd_core.images import LabelledImages

    count, channels, *size = source.images.shape
    if size == [side, side]:
        return source
    if count * channels * side * side > memory_limit:
        gibi = count * channels * side * side / 2**30
        raise UserError(
            f"{source.name} at --image-size {side} is {gibi:.1f} GiB, above the limit of "
            f"{memory_limit / 2**30:.1f} GiB; choose a smaller size"
        )
    images = torch.empty(count, channels, side, side, dtype=torch.uint8)
    for target, image in zip(images, source.images, strict=True):
        target[:] = _resize(image, side)
    return LabelledImages(images, source.labels, source.classes, source.name)


def _resize(image: Tensor, side: int) -> Tensor:
    """uint8 (C, H, W) -> (C, side, side), channel by channel."""
    import torch
    from PIL import Image

    planes = [Image.fromarray(plane.numpy()).resize((side, side), Image.Resampling.BICUBIC) for plane in image]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


# --- torchvision's data sets ---------------------------------------------------------------------------------

_DIGITS = tuple("0123456789")
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
class _Home:
    """How torchvision calls a data set, and the archives (path below the root, md5) that its `split` needs.

    `classes` are names that torchvision does not give, `in_its_files` those that it reads with the images.
    """

    kind: str
    archives: Callable[[Any, str], list[tuple[str, str]]]
    takes_split: bool = False
    classes: tuple[str, ...] | None = None
    in_its_files: str = ""


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
    "cifar10": _Home("CIFAR10", _whole, in_its_files=_CIFAR10),
    "cifar100": _Home("CIFAR100", _whole, in_its_files=_CIFAR100),
    "svhn": _Home("SVHN", _by_split, takes_split=True, classes=_DIGITS),
    "stl10": _Home("STL10", _whole, takes_split=True, in_its_files=_STL10),
}


def _torchvision(name: str, split: str, root: Path) -> LabelledImages:
    """A data set from the files below `root`, downloaded first where they are missing."""
    dataset = _open_if_there(name, split, root) or _fetch(name, split, root)
    return _convert(name, dataset)


def _open(name: str, split: str, root: Path, *, download: bool = False) -> Any:
    import torchvision

    home = _HOMES[name]
    side = {"split": split} if home.takes_split else {"train": split == "train"}
    # torchvision prints to stdout, which belongs to results; its progress bar goes to stderr
    with redirect_stdout(io.StringIO()):
        return getattr(torchvision.datasets, home.kind)(str(root), download=download, **side)


def _convert(name: str, dataset: Any) -> LabelledImages:
    import torch

    from dd_core.images import LabelledImages

    pixels = np.asarray(dataset.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets, dtype=np.int64)
    classes = _HOMES[name].classes or tuple(dataset.classes)
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return LabelledImages(images, torch.from_numpy(labels), classes, name)


def _fetch(name: str, split: str, root: Path) -> Any:
    """Download under a lock, so that two processes do it once and a killed one's leftovers can go."""
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
    try:
        return _open(name, split, root)
    except Exception:  # whatever torchvision raises when it reads a file that is not what it should be
        return None


def _archives(name: str, split: str) -> list[tuple[str, str]]:
    import torchvision

    home = _HOMES[name]
    return home.archives(getattr(torchvision.datasets, home.kind), split)


def _borrow_archives(name: str, split: str, root: Path, staging: Path) -> None:
    """Whole archives that the user put there are used from where they lie."""
    from torchvision.datasets.utils import check_integrity

    for archive, md5 in _archives(name, split):
        # a damaged one would be overwritten through the link, and half of the new one left by a kill
        if check_integrity(root / archive, md5):
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


def _raise_if_full(error: BaseException | None) -> None:
    """Raise the OSError of a full disk that led to `error`, if one did: torchvision tries on and fails otherwise."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in store.DISK_FULL:
            raise error
        error = error.__cause__ or error.__context__


def _advice(name: str, split: str, root: Path, reason: Exception) -> str:
    """Which archives to put where or, where all of them are there and whole, to remove."""
    from torchvision.datasets.utils import check_integrity

    missing: list[str] = []
    damaged: list[str] = []
    for archive, md5 in _archives(name, split):
        if not (root / archive).is_file():
            missing.append(archive)
        elif not check_integrity(root / archive, md5):
            damaged.append(archive)
    if not missing + damaged:
        archives = ", ".join(str(root / archive) for archive, _ in _archives(name, split))
        return f"{name} cannot be unpacked ({_line(reason)}); remove {archives} and run again, or use another copy"
    folder = (root / (missing + damaged)[0]).parent
    files = ", ".join(Path(archive).name for archive in missing + damaged)
    wrong = f" ({', '.join(Path(a).name for a in damaged)} there: wrong checksum)" if damaged else ""
    return f"{name} cannot be downloaded ({_line(reason)}); put {files} into {folder}{wrong}"


def _line(error: Exception) -> str:
    """The last non-empty line of a message: torchvision lists every mirror that it tried, and then why."""
    with suppress(IndexError):
        return [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    return type(error).__name__
