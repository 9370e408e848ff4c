"""Images with labels: the `Source` protocol that methods draw from, and the in-memory one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from dd_core.config import class_names
from dd_core.errors import UserError
from dd_core.streams import generator
from dd_core.system import surroundings
from dd_core.whitening import Whitening

PIXEL_BYTES = 64 << 20  # most bytes of decoded images that a pass over a source holds; no result depends on it


@runtime_checkable
class Source(Protocol):
    """Real images, in memory or on disk. Pixels are always uint8 (n, C, H, W)."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> Int64[Tensor, " N"] | None:
        """(N,) class indices, or None for a self-supervised source."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """A digest of everything in the source that can change a method's result."""
        ...

    def take(self, indices: Int64[Tensor, " n"]) -> UInt8[Tensor, "n C H W"]:
        """The images at `indices`, in that order."""
        ...

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """All images in order, `size` at a time."""
        ...

    def subset(self, indices: Int64[Tensor, " n"]) -> Source:
        """A source of the images at `indices`, with the same classes."""
        ...

    def without_labels(self) -> Source:
        """The same images, without labels and classes."""
        ...

    def sizes(self, rows: Int64[Tensor, " n"]) -> Int64[Tensor, "n 2"]:
        """(height, width) of the images `rows` before they are resized to `image_shape`, as `views` cuts them."""
        ...

    def views(
        self,
        rows: Int64[Tensor, " n"],
        boxes: Int64[Tensor, "n 4"],
        *,
        flips: Bool[Tensor, " n"],
        size: tuple[int, int],
    ) -> UInt8[Tensor, "n C H W"]:
        """The crop `boxes[i]` (top, left, height, width) of the image `rows[i]`, resized to `size` (H, W).

        flips: which crops are mirrored. A row may occur repeatedly, with different boxes. See `resized_crop`. Raises
        `UserError` for a box that is not within its image.
        """
        ...


@runtime_checkable
class CountsChannels(Protocol):
    """A source with a cheaper way to `channel_counts` than a pass over all images in each process."""

    def channel_counts(self) -> Int64[Tensor, "C 256"]:
        """How often each of the 256 values occurs in each channel."""
        ...


@runtime_checkable
class DecodesFiles(Protocol):
    """A source whose images stay in files, and are decoded when they are asked for."""

    @property
    def decoders(self) -> int:
        """How many processes decode images ahead of their use; no result depends on the number."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in memory. images: uint8 (N, C, H, W); labels: int64 (N,) or None; classes: names of the classes, if any.

    origin: where the images come from, for messages only; see `called`. Raises `UserError` where the parts do not fit
    together.
    """

    images: UInt8[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"] | None
    classes: tuple[str, ...]
    name: str
    origin: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes, self.name))
        self._check_devices()
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or 0 in self.images.shape:
            raise UserError(
                f"{self.name}: images must be uint8 (N, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels is None:
            return
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            raise UserError(f"{self.name}: labels must be int64 ({len(self.images)},), one for each image")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise UserError(f"{self.name}: labels run from {low} to {high}, but there are {len(self.classes)} classes")

    @surroundings.own()
    def _check_devices(self) -> None:
        """Refuse tensors that are not on the CPU; copy those of `torch.inference_mode`, which autograd cannot take."""
        for name, tensor in {"images": self.images, "labels": self.labels}.items():
            if tensor is None:
                continue
            if tensor.device.type != "cpu":
                raise UserError(f"{self.name}: {name} are on the device '{tensor.device}'; move them to the CPU")
            if tensor.is_inference():
                object.__setattr__(self, name, tensor.clone())

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def fingerprint(self) -> str:
        """sha256 over classes, shapes, labels and pixels."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.classes, tuple(self.images.shape), self.labels is None)).encode())
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().data)
        digest.update(self.images.contiguous().numpy().data)
        return digest.hexdigest()

    def take(self, indices: Int64[Tensor, " n"]) -> UInt8[Tensor, "n C H W"]:
        """The images at `indices`, in that order."""
        with torch.inference_mode(False):  # alone: this is called in every step
            return self.images[indices]

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """All images in order, `size` at a time, without copying."""
        yield from self.images.split(size)

    @surroundings.own()
    def subset(self, indices: Int64[Tensor, " n"]) -> LabelledImages:
        """The images at `indices`, with the same classes."""
        labels = None if self.labels is None else self.labels[indices]
        return LabelledImages(self.images[indices], labels, self.classes, self.name, origin=self.origin)

    @surroundings.own()
    def sizes(self, rows: Int64[Tensor, " n"]) -> Int64[Tensor, "n 2"]:
        """(height, width) of the images `rows`: for all of them that of `image_shape`."""
        return torch.tensor(self.image_shape[1:]).repeat(len(rows), 1)

    @surroundings.own()
    def views(
        self,
        rows: Int64[Tensor, " n"],
        boxes: Int64[Tensor, "n 4"],
        *,
        flips: Bool[Tensor, " n"],
        size: tuple[int, int],
    ) -> UInt8[Tensor, "n C H W"]:
        """See `Source.views`; raises `UserError` for a box that is not within its image."""
        require_within(boxes, self.sizes(rows))
        shown = np.empty((len(rows), self.image_shape[0], *size), dtype=np.uint8)
        for index, (row, box, flip) in enumerate(zip(rows.tolist(), boxes.tolist(), flips.tolist(), strict=True)):
            shown[index] = resized_crop(self.images[row].numpy(), box, flip=flip, size=size)
        return torch.from_numpy(shown)

    def without_labels(self) -> LabelledImages:
        """The same images, without labels and classes."""
        return LabelledImages(self.images, None, (), self.name, origin=self.origin)

    @surroundings.own()
    def split(self, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """(rest, held out): see `split_indices`."""
        rest, validation = split_indices(self, fraction, seed)
        return self.subset(rest), self.subset(validation)

    @surroundings.own()
    def of_classes(self, wanted: Sequence[int]) -> LabelledImages:
        """The images of the classes `wanted` (indices), relabelled 0, 1, ... in the order of `wanted`."""
        labels = require_labels(self)
        position = torch.full((len(self.classes),), -1, dtype=torch.int64)
        position[list(wanted)] = torch.arange(len(wanted))
        chosen = (position[labels] >= 0).nonzero().flatten()
        names = tuple(self.classes[index] for index in wanted)
        return LabelledImages(self.images[chosen], position[labels[chosen]], names, self.name, origin=self.origin)

    @surroundings.own()
    def with_label_noise(self, fraction: float, seed: int) -> LabelledImages:
        """The same images with a random `fraction` of the labels replaced by wrong ones, all equally likely."""
        labels, classes = require_labels(self).clone(), len(self.classes)
        draw = generator(seed, "label-noise")
        wrong = torch.randperm(len(self), generator=draw)[: round(fraction * len(self))]
        labels[wrong] = (labels[wrong] + torch.randint(1, classes, (len(wrong),), generator=draw)) % classes
        return LabelledImages(self.images, labels, self.classes, self.name, origin=self.origin)

    def channel_stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See `channel_stats`."""
        return channel_stats(self)


def resized_crop(pixels: np.ndarray, box: Sequence[int], *, flip: bool, size: tuple[int, int]) -> np.ndarray:
    """uint8 (C, H, W): `box` of uint8 `pixels`, at `size`, and then mirrored left and right where `flip` is true.

    box: (top, left, height, width). As in torchvision's RandomResizedCrop of an image, the box is cut out first, so
    that pixels outside it play no part, and is then resized by Pillow's bilinear filter, which antialiases.
    """
    top, left, height, width = box
    high, wide = size
    cut = np.ascontiguousarray(pixels[:, top : top + height, left : left + width])
    channels = [Image.fromarray(channel).resize((wide, high), Image.Resampling.BILINEAR) for channel in cut]
    shown = np.stack([np.asarray(channel) for channel in channels])
    return shown[:, :, ::-1] if flip else shown


def require_within(boxes: Int64[Tensor, "n 4"], sizes: Int64[Tensor, "n 2"]) -> None:
    """Raise `UserError` for a box (top, left, height, width) that is empty or not within its (height, width)."""
    starts, sides = boxes[:, :2], boxes[:, 2:]
    beyond = ((starts < 0) | (sides < 1) | (starts + sides > sizes)).any(1)
    for index in beyond.nonzero().flatten().tolist():
        (top, left, high, wide), (height, width) = boxes[index].tolist(), sizes[index].tolist()
        raise UserError(
            f"box {index}, {wide} x {high} pixels from column {left} and row {top} on, is not within its image of "
            f"{width} x {height}"
        )


def called(source: Source) -> str:
    """How messages call `source`: by its origin, such as a folder's path, or else by its name.

    Manifests have the name alone, and no paths.
    """
    return getattr(source, "origin", "") or source.name


def require_labels(source: Source) -> Int64[Tensor, " N"]:
    """The labels; raises `UserError` for a source without them."""
    if source.labels is None:
        raise UserError(f"{called(source)} has no labels, and this needs labels; give labelled images")
    return source.labels


def indices_by_class(source: Source) -> list[Int64[Tensor, " n"]]:
    """For each class, the indices of its images; raises `UserError` for a class without any."""
    labels = require_labels(source)
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=len(source.classes))
    for index, count in enumerate(counts.tolist()):
        if count == 0:
            raise UserError(f"{called(source)}: class '{source.classes[index]}' has no images")
    return list(order.split(counts.tolist()))


def split_indices(source: Source, fraction: float, seed: int) -> tuple[Int64[Tensor, " rest"], Int64[Tensor, " held"]]:
    """(rest, held out), both sorted: `fraction` of each class, or of images without labels, drawn by `seed`.

    At least one image is on either side. Raises `UserError` for a fraction outside (0, 1) and for a class of one image.
    """
    if not 0 < fraction < 1:
        raise UserError(f"a split needs a fraction between 0 and 1, not {fraction}")
    held = torch.zeros(len(source), dtype=torch.bool)
    for index, members in enumerate([torch.arange(len(source))] if source.labels is None else indices_by_class(source)):
        if len(members) < 2:
            kind = "" if source.labels is None else f"class '{source.classes[index]}' "
            raise UserError(f"{called(source)}: {kind}has one image and cannot be split")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = torch.randperm(len(members), generator=generator(seed, "split", index))
        held[members[order[:count]]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def pixel_batch(image_shape: tuple[int, int, int], *, most: int, bytes_each: int = 1) -> int:
    """How many images (C, H, W), of `bytes_each` bytes for each number, fit into `PIXEL_BYTES`; from 1 to `most`."""
    return max(1, min(most, PIXEL_BYTES // (bytes_each * prod(image_shape))))


@surroundings.own()
def channel_counts(source: Source) -> Int64[Tensor, "C 256"]:
    """How often each of the 256 values occurs in each channel, by a pass over all images."""
    channels = source.image_shape[0]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for batch in source.batches(pixel_batch(source.image_shape, most=4096)):
        for channel in range(channels):
            counts[channel] += torch.bincount(batch[:, channel].flatten(), minlength=256)
    return counts


@surroundings.own()
def channel_stats(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel with pixels in [0, 1], exact: from a histogram of the 256 values.

    A constant channel gets std 1, so that its normalised pixels are 0.
    """
    return stats_of_counts(source.channel_counts() if isinstance(source, CountsChannels) else channel_counts(source))


@surroundings.own()
def stats_of_counts(counts: Int64[Tensor, "C 256"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel from `channel_counts`; counts of several sources may be added up first."""
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True)
    mean = weights @ values
    std = (weights @ values.square() - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    return tuple(mean.tolist()), tuple(std.tolist())


def normalise(
    images: UInt8[Tensor, "n C H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "n C H W"]:
    """float32 network input `(image / 255 - mean) / std`, on the images' device."""
    shape = (1, -1, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in std]).view(shape)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(shape)
    scale, offset = (each.to(images.device, non_blocking=True) for each in (scale, offset))
    return images.float() * scale + offset


@dataclass(frozen=True, eq=False)
class InputForm:
    """How real images become network inputs: normalised, and then whitened where there is a whitening.

    A form can be pickled. It copies its whitening to each device once.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whitening: Whitening | None = None
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(source: Source, whitening: Whitening | None = None) -> InputForm:
        """The form that normalises by the channels of `source`; with a whitening, mean 0 and std 1, then whitening."""
        if whitening is None:
            return InputForm(*channel_stats(source))
        channels = source.image_shape[0]
        return InputForm((0.0,) * channels, (1.0,) * channels, whitening)

    @surroundings.own()
    def __call__(self, images: UInt8[Tensor, "n C H W"]) -> Float[Tensor, "n C H W"]:
        """float32 network input, on the images' device."""
        inputs = normalise(images, self.mean, self.std)
        if self.whitening is None:
            return inputs
        if images.device not in self._copies:
            arrays = (self.whitening.offset, self.whitening.matrix)
            offset, matrix = (torch.tensor(array, device=images.device) for array in arrays)
            self._copies[images.device] = (offset, matrix)
        offset, matrix = self._copies[images.device]
        return ((inputs.flatten(1) - offset) @ matrix).view_as(inputs)

    @property
    def black(self) -> Float[Tensor, " C"] | None:
        """The network input of a black pixel; None with a whitening, where the input depends on the pixel's place."""
        if self.whitening is not None:
            return None
        return torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)])

    def __reduce__(self) -> tuple[type[InputForm], tuple[object, ...]]:
        return InputForm, (self.mean, self.std, self.whitening)
