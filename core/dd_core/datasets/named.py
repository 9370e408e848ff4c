"""Real images by name: scikit-learn's digits, torchvision's data sets, and `folder:PATH` (in `folders`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dd_core.artefacts import cache_folder
from dd_core.datasets import folder_layout, torchvision_files
from dd_core.datasets.folder_names import printable
from dd_core.errors import Option, UserError, unknown_name
from dd_core.system import surroundings
from dd_core.system.parallel import Workers
from dd_core.system.paths import expanded

if TYPE_CHECKING:
    from dd_core.images import Source

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
    "folder:PATH": "your own images: one folder a class, or a training and a test folder with such folders inside; "
    "self-supervised methods take folders without classes",
}


@surroundings.own()
def load(
    name: str,
    *,
    split: str = "train",
    image_size: int | None = None,
    skip_corrupt: bool = False,
    labelled: bool = True,
    memory_limit: int = 2 * 2**30,
    workers: Workers | None = None,
    root: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Source:
    """The "train" or "test" images of a data set: uint8 (N, C, H, W), `image_size` pixels square where that is given.

    Without `labelled`, images come without labels and classes, those of a folder from anywhere below it.
    `memory_limit` is in bytes of pixels; a larger folder is streamed. Downloads go to `root`, else to
    `$DD_APPS_DATA`, else to the cache. Raises `UserError` for an unknown name, for a data set that is missing and
    cannot be downloaded, and for whatever is wrong with a folder.
    """
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    if image_size is not None and image_size < 1:
        raise UserError(f"{Option('image_size')} is in pixels, at least 1, not {image_size}")
    check_name(name)
    from dd_core.datasets import arrays, folders  # images are tensors: what only knows names loads no torch

    if name.startswith("folder:"):
        return folders.load(
            _folder_path(name),
            split=split,
            image_size=image_size,
            skip_corrupt=skip_corrupt,
            labelled=labelled,
            memory_limit=memory_limit,
            workers=workers or Workers(count=min(8, os.cpu_count() or 1)),
            progress=progress or _silent,
        )
    images = arrays.digits(split) if name == "digits" else arrays.of_torchvision(name, split, _root(root))
    images = images if image_size is None else arrays.resized(images, image_size, memory_limit)
    return images if labelled else images.without_labels()


def class_names(name: str) -> tuple[str, ...]:
    """The names of the classes of a data set, in the order of its labels; no image is read, nothing downloaded.

    Raises `UserError` for an unknown name, and for a folder without class folders.
    """
    check_name(name)
    if name.startswith("folder:"):
        return tuple(printable(folder) for folder in folder_layout.find(_folder_path(name)).classes)
    return torchvision_files.DIGITS if name == "digits" else torchvision_files.class_names(name)


def check_name(name: str) -> None:
    """Raise `UserError` for an unknown name of a data set; whether its files exist is not checked."""
    if name.startswith("folder:") or (name in DATASETS and name != "folder:PATH"):
        return
    if os.path.isdir(name):  # unlike Path.is_dir it takes a name of any length
        raise UserError(f"unknown data set '{name}'; for the images in that folder: folder:{name}")
    raise unknown_name("data set", name, DATASETS)


def _folder_path(name: str) -> Path:
    path = name.removeprefix("folder:")
    if not path:
        raise UserError("folder: needs a path, such as folder:my/images")
    return expanded(path, option="folder:")


def _root(given: Path | None) -> Path:
    """Where torchvision's files lie."""
    if given is not None:
        return expanded(str(given))
    elsewhere = os.environ.get("DD_APPS_DATA")
    return expanded(elsewhere, option="DD_APPS_DATA=") if elsewhere else cache_folder() / "data"


def _silent(_: str) -> None:
    """Tell nobody."""


def once(say: Callable[[str], None], told: set[str] | None = None) -> Callable[[str], None]:
    """`say` without repetition: the two splits of a folder give mostly the same lines, which are told once.

    `told` holds the lines that were said before; new lines are added to it.
    """
    told = set[str]() if told is None else told

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    return tell
