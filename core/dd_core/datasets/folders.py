"""`folder:PATH`: anybody's images, one folder a class, as a `Source`.

    PATH/cat/1.png  PATH/dog/x/2.jpg                     a fifth of each class is the test split
    PATH/train/cat/1.png  PATH/test/cat/2.png            test/, or val/ where there is no test/: see `folder_layout`
    PATH/1.png  PATH/any/where/2.jpg                     read without labels only, as self-supervised methods do

Folders within a class folder belong to that class; files that are passed over are reported, except hidden files and
what systems leave behind. The pixels are an artefact, named by the sha256 over sorted (relative path, content sha256)
and by their shape. A digest of these with labels and classes is the fingerprint of the source, loaded or streamed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dd_core.datasets import folder_layout
from dd_core.datasets.file_rows import Headers
from dd_core.datasets.folder_index import Say, Survey, Surveyor
from dd_core.datasets.folder_names import class_name, printable
from dd_core.datasets.folder_notes import notes, refuse_lost_drawings
from dd_core.datasets.folder_pixels import parts_of
from dd_core.datasets.streaming import LoadedFolder, StreamedFolder
from dd_core.errors import Option, UserError
from dd_core.images import Source, split_indices
from dd_core.system.parallel import Workers

_HELD_OUT = 0.2  # of each class, where there is no test folder
USUAL_SIZES = (32, 64, 128)  # of images that are distilled, in pixels


def load(
    path: Path,
    *,
    split: str,
    image_size: int | None,
    skip_corrupt: bool,
    labelled: bool,
    memory_limit: int,
    workers: Workers,
    progress: Say,
) -> Source:
    """The train or test images of a folder, in memory up to `memory_limit` bytes of pixels, else streamed.

    `progress` is told what is passed over, which images are held out, and what is odd about the images returned. If not
    `labelled`, folders are not read as classes, and images may lie anywhere below `path`.
    Raises `UserError` for a folder without class folders or whose layout can be read in two ways, classes that differ
    between train and test, an unreadable image (left out and counted with `skip_corrupt`), mixed sizes without
    `image_size`, and dark drawings on a transparent ground, which would be lost.
    """
    layout = folder_layout.find(path) if labelled else folder_layout.find_unlabelled(path)
    for remark in layout.remarks:
        progress(remark)
    surveyor = Surveyor(path, skip_corrupt, workers, progress, labelled)
    train = surveyor.survey(layout.train)
    chosen = train if split == "train" or layout.test is None else surveyor.survey(layout.test)
    for remark in chosen.remarks:
        progress(remark)
    # test images take the shape of the training images, whatever they are
    channels = 1 if train.headers.table["grey"].all() else 3
    side = (image_size, image_size) if image_size is not None else _common_size(path, (train.headers, chosen.headers))
    source = replace(_streamed(path, chosen, layout.classes, (channels, *side)), workers=workers)
    headers = chosen.headers
    if layout.test is None:
        source, members = _side(source, split, progress)
        headers = headers.take(members.numpy())
    refuse_lost_drawings(source.origin, headers)
    for note in notes(headers):
        progress(note)
    if source.nbytes > memory_limit:
        progress(f"{source.nbytes / 2**30:.1f} GiB of pixels are above the limit; images are read as needed")
        return source
    return in_memory(source, workers=workers, progress=progress)


def in_memory(source: StreamedFolder, *, workers: Workers, progress: Say) -> LoadedFolder:
    """The same images in memory, decoded through the cache; raises `UserError` for a file that changed meanwhile."""
    images = np.empty((len(source), *source.image_shape), dtype=np.uint8)
    start = 0
    for pixels in parts_of(source, workers=workers, progress=progress):
        images[start : start + len(pixels)] = pixels
        start += len(pixels)
    pixels = torch.from_numpy(images)
    return LoadedFolder(
        pixels,
        source.labels,
        source.classes,
        source.name,
        origin=source.origin,
        content=source.fingerprint(),
        unlabelled=source.without_labels().fingerprint(),
    )


# --- splits and shapes --------------------------------------------------------------------------------------


def _side(whole: StreamedFolder, split: str, say: Say) -> tuple[StreamedFolder, Int64[Tensor, " n"]]:
    """The images of `split` and where they are in `whole`; the origin of the returned source says what is held out."""
    rest, held_out = split_indices(whole, _HELD_OUT, seed=0)
    share = "a fifth" if whole.labels is None else "a fifth of each class"
    split_line = f"{len(held_out):,} of {len(whole):,} images, {share}, are held out as the test split"
    say(split_line)
    members = rest if split == "train" else held_out
    return replace(whole.subset(members), origin=f"{whole.origin} ({split_line})"), members


def _common_size(path: Path, surveys: Iterable[Headers]) -> tuple[int, int]:
    """(height, width) of all images; raises `UserError` where they differ."""
    found = {pair for headers in surveys for pair in np.unique(headers.table[["height", "width"]]).tolist()}
    sizes = sorted((height * width, width, height) for height, width in found)
    (_, width, height), (_, largest_width, largest_height) = sizes[0], sizes[-1]
    if len(sizes) > 1:
        advised = Option("image_size", _usual_size(min(width, height)))
        raise UserError(
            f"folder:{path} has images of {len(sizes)} sizes, from {width} x {height} to {largest_width} x "
            f"{largest_height} pixels; give one size for all, such as {advised}"
        )
    return height, width


def _usual_size(side: int) -> int:
    """The largest of the field's sizes that does not enlarge an image of `side` pixels; a smaller image's own side."""
    return max((usual for usual in USUAL_SIZES if usual <= side), default=side)


def _streamed(path: Path, survey: Survey, classes: tuple[str, ...], shape: tuple[int, int, int]) -> StreamedFolder:
    labels = None
    if classes:
        numbers = torch.tensor([classes.index(class_name(folder)) for folder in survey.classes])
        labels = numbers.repeat_interleave(torch.tensor([*survey.classes.values()]))
    names = tuple(printable(name) for name in classes)
    origin = f"folder:{printable(str(path))}"
    table = survey.headers.table
    sizes = torch.from_numpy(np.stack([table["height"], table["width"]], axis=1))
    return StreamedFolder(survey.folder, survey.files, labels, names, shape, origin=origin, native_sizes=sizes)
