"""A distilled set and what travels with it. Values only: no disk, and no torch until a tensor is asked for.

`stored -> raw -> network input` is decided by `Pixels` and the set's own whitening, and by nothing else, so that a set
cannot be fed to a network with somebody else's normalisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, JsonValue, model_serializer, model_validator

from dd_core import formation as formations
from dd_core.config import Config, FrozenArrays, digest, plain
from dd_core.distilled import card, pictures
from dd_core.distilled.layouts import Layout, layout_problems
from dd_core.errors import Option, UserError
from dd_core.formation import Factor
from dd_core.recipe import Recipe
from dd_core.system import surroundings
from dd_core.system.environment import Environment
from dd_core.whitening import Whitening

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch.utils.data import TensorDataset

    from dd_core.images import InputForm


class Size(Config):
    """How many synthetic images: `ipc` a class, `images` in all (dealt evenly, first classes first), or `counts`."""

    ipc: int | None = Field(default=None, ge=1, description="images per class")
    images: int | None = Field(default=None, ge=1, description="images in all")
    counts: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1, description="images of each class, where classes get different numbers"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Size:
        if [self.ipc, self.images, self.counts].count(None) != 2:
            raise ValueError("give either ipc (images per class), images (in all) or counts (of each class)")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_counts(self, fields_of: Callable[[Size], dict[str, Any]]) -> dict[str, Any]:
        """Files, checkpoints and digests stay what they were before there was a field `counts`."""
        return {name: value for name, value in fields_of(self).items() if name != "counts" or value is not None}

    @staticmethod
    def of(counts: Sequence[int]) -> Size:
        """The size of `counts[c]` images of each class c; an `ipc` where all classes have equally many."""
        return Size(ipc=counts[0]) if len(set(counts)) == 1 else Size(counts=tuple(counts))

    def total(self, classes: int) -> int:
        """Images in all; raises `UserError` for `ipc` or `counts` without classes, and what `per_class` raises."""
        if self.images is not None:
            return self.images
        if not classes:
            raise UserError(f"without labels there are no classes; say how many images in all: {Option('images', 100)}")
        return sum(self.per_class(classes))

    def per_class(self, classes: int) -> tuple[int, ...]:
        """Images of each class; raises `UserError` if a class would get none, or `counts` has another length."""
        if self.ipc is not None:
            return (self.ipc,) * classes
        if self.counts is not None:
            if len(self.counts) != classes:
                raise UserError(f"counts give the images of {len(self.counts)} classes, and there are {classes}")
            return self.counts
        assert self.images is not None
        if self.images < classes:
            raise UserError(f"{self.images} images for {classes} classes; at least {classes} are needed")
        share, rest = divmod(self.images, classes)
        return tuple(share + (index < rest) for index in range(classes))


Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of each channel, pixels in [0, 1]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as torchvision's pre-trained weights expect


class Pixels(Config):
    """What the stored numbers are. The network's input is `(raw - mean) / std` with raw in [0, 1].

    space "raw": a stored float is raw, and a stored uint8 is 255 times raw. "normalised" or "whitened": the stored
    float *is* the input. A set with a whitening has mean 0 and std 1, and the network's input is raw, whitened.
    """

    space: Literal["raw", "normalised", "whitened"]
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _channels_agree(self) -> Pixels:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std {len(self.std)}")
        if min(self.std) < 1e-12 or max(*self.std, *map(abs, self.mean)) > 1e12:
            raise ValueError("std must be positive, and mean and std fit for float32")
        if self.space == "whitened" and not self.as_they_are:
            raise ValueError("whitened pixels have mean 0 and std 1")
        return self

    @property
    def as_they_are(self) -> bool:
        """Whether `(raw - mean) / std` is raw."""
        return not any(self.mean) and set(self.std) == {1.0}


class Provenance(Config):
    """Where a set came from: everything that determines the set, and no time, host or path."""

    source: str
    fingerprint: str
    source_images: int
    method: str
    config: dict[str, JsonValue]
    size: Size
    seed: int
    artefacts: tuple[str, ...] = Field(default=(), description="digests of the contents of the artefacts used")
    environments: tuple[Environment, ...] = Field(
        min_length=1, description="environment of each part of the run, in order; a resumption elsewhere adds one"
    )
    inner_steps: str | None = Field(
        default=None,
        exclude_if=lambda inner_steps: inner_steps is None,
        description="compiled, captured, eager, or some of them, where inner steps were to be compiled or captured",
    )


class Manifest(Config):
    """Everything about a set that is not a tensor."""

    task: Literal["classification", "self-supervised"] = "classification"
    classes: tuple[str, ...]
    pixels: Pixels
    targets: Literal["none", "probabilities", "logits", "features"] = "none"
    formation: Factor = Field(
        default=1,
        description="rows, and columns, of tiles in a stored image; networks see each tile enlarged to a whole image; "
        "1: networks see the stored images",
    )
    recipe: Recipe
    attack: tuple[str, str] | None = Field(
        default=None,
        description="(class, class) of a set from Wang et al.'s attack experiment: networks trained on the set take "
        "the first class for the second; null in other sets",
    )
    provenance: Provenance | None = Field(
        default=None, description="filled in by the runner; absent from a set that a program put together"
    )


@dataclass(frozen=True, eq=False)
class DistilledSet(FrozenArrays):
    """Synthetic images with what is needed to use them.

    images: (N, C, H, W) uint8, float16 or float32; labels: (N,) int64 or None; targets: (N, K) class
    probabilities or logits, (N, D) features, or None; whitening: the ZCA whitening that turns raw pixels into a
    network's input, or None. Whitened pixels need a whitening, raw pixels may have one. The arrays are read-only.
    Raises `UserError` where the parts do not fit together.

    The arrays, `len`, `nbytes`, `raw` and `quantised` are of the images as they are stored. `inputs` and `as_dataset`
    are of the images that networks see: in a set with a formation, the `decoded_count` images of `decoded()`.
    """

    images: np.ndarray
    labels: np.ndarray | None
    manifest: Manifest
    targets: np.ndarray | None = None
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise UserError(f"not a distilled set: {problem}")
        for name in ("images", "labels", "targets"):
            array = getattr(self, name)
            if array is not None and (array.flags.writeable or not array.flags.c_contiguous):
                array = np.array(array, order="C")
                array.flags.writeable = False
                object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return card.line_of(self)

    @surroundings.own()
    def _repr_html_(self) -> str:
        """The set's images and its card, which a notebook shows."""
        return card.html_of(self)

    @surroundings.own()
    def show(self) -> Image:
        """A sheet of the images, a grid for each class, which a notebook shows; `show().save("FILE.png")` keeps it.

        Pixels are clipped to [0, 1]; of a large set only the first images of each class are shown, and a line says so.
        """
        return pictures.contact_sheet(self)

    @surroundings.own()
    def to_pil(self) -> list[Image]:
        """Each image as it is stored, clipped to [0, 1] and rounded to 8 bits; `decoded().to_pil()` as networks see it.

        Images of neither 1 nor 3 channels are the mean over their channels.
        """
        return [pictures.pil_image(pixels) for pixels in self.quantised().images]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return self.manifest.classes

    @property
    def nbytes(self) -> int:
        """Bytes of images and targets as stored; hard labels are not counted, whatever the method.

        A whitening is counted apart, as `whitening.nbytes`: the real images determine it, not what was distilled.
        """
        return self.images.nbytes + (0 if self.targets is None else self.targets.nbytes)

    def digest(self) -> str:
        """sha256 over arrays, task, classes, pixels, kind of targets and formation, not over recipe and provenance.

        A relabel bank belongs to the set of one digest.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        manifest = plain(self.manifest)
        names = ("task", "classes", "pixels", "targets", "formation")  # a formation of 1 is in no manifest
        content = {name: manifest[name] for name in names if name in manifest}
        arrays = {
            name: [array.dtype.name, list(array.shape), hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()]
            for name, array in arrays_of(self).items()
        }
        return digest({**content, "arrays": arrays})

    @property
    def decoded_count(self) -> int:
        """How many images networks see: N, and with a formation the square of its factor times N."""
        return len(self) * self.manifest.formation**2

    @surroundings.own()
    def decoded(self) -> DistilledSet:
        """The images that networks see, as a set without a formation; the set itself where it has none.

        The images are float32 in the set's own kind of pixels: tile 0 of all stored images, then tile 1 of all. A tile
        has the label and the target of its stored image.
        """
        if (factor := self.manifest.formation) == 1:
            return self
        stored, grey = self.images.astype(np.float32), np.float32(formations.PADDING)
        if self.manifest.pixels.space == "raw":
            stored = self.raw()
        else:
            mean, std = _channels(self.manifest.pixels)
            grey = (grey - mean) / std
        down, across = formations.enlargements(factor, (stored.shape[2], stored.shape[3]))
        images = np.concatenate([*formations.tiles(stored, factor, grey=grey, down=down, across=across)])
        labels = None if self.labels is None else np.tile(self.labels, factor**2)
        targets = None if self.targets is None else np.tile(self.targets, (factor**2, 1))
        manifest = self.manifest.model_copy(update={"formation": 1})
        return replace(self, images=images, labels=labels, targets=targets, manifest=manifest)

    @surroundings.own()
    def raw(self) -> np.ndarray:
        """(N, C, H, W) float32 pixels, where [0, 1] is black to white; learned pixels may lie outside."""
        if self.images.dtype == np.uint8:
            return self.images.astype(np.float32) / np.float32(255)
        values = self.images.astype(np.float32)
        if self.manifest.pixels.space == "raw":
            return values
        if self.manifest.pixels.space == "whitened":
            assert self.whitening is not None
            return self.whitening.undo(values)
        mean, std = _channels(self.manifest.pixels)
        return values * std + mean

    @surroundings.own()
    def inputs(self) -> torch.Tensor:
        """(N, C, H, W) float32 tensor, exactly what a network is to be fed; N is `decoded_count`."""
        import torch  # a set is read and verified without torch

        if self.manifest.formation != 1:
            return self.decoded().inputs()
        if self.manifest.pixels.space != "raw":
            return torch.from_numpy(self.images.astype(np.float32))
        if self.whitening is not None:
            return torch.from_numpy(self.whitening.apply(self.raw()))
        mean, std = _channels(self.manifest.pixels)
        return torch.from_numpy((self.raw() - mean) / std)

    def input_form(self) -> InputForm:
        """The normalisation or whitening that turns real uint8 images into inputs of a network trained on the set."""
        from dd_core.images import InputForm  # loads torch, without which a set is read and verified

        return InputForm(self.manifest.pixels.mean, self.manifest.pixels.std, self.whitening)

    @surroundings.own()
    def as_dataset(self) -> TensorDataset:
        """A torch `Dataset` of (network input[, label][, target]), decoded, normalised or whitened as the set says."""
        import torch.utils.data  # a set is read and verified without torch

        seen = self.decoded()
        parts = [seen.inputs()]
        parts += [torch.tensor(array) for array in (seen.labels, seen.targets) if array is not None]
        return torch.utils.data.TensorDataset(*parts)

    def take(self, rows: Sequence[int] | np.ndarray) -> DistilledSet:
        """The set of the stored images `rows`, in that order, with labels and targets; a row may be named twice.

        All rows in order give the set itself. Any other set has no provenance, as no run made it, and its recipe has
        no learned steps, as these are for the blocks of the whole set. Raises `UserError` for no rows at all, and
        for what is no index from 0 to the number of images.
        """
        places = np.asarray(rows)
        if places.ndim != 1 or len(places) == 0 or places.dtype.kind not in "iu":
            raise UserError(f"rows of a set are indices, at least one; got {places.dtype} of shape {places.shape}")
        if places.min() < 0 or places.max() >= len(self):
            raise UserError(f"rows run from {places.min()} to {places.max()}, and the set has {len(self)} images")
        if np.array_equal(places, np.arange(len(self))):
            return self
        recipe = self.manifest.recipe.model_copy(update={"steps": ()})
        return replace(
            self,
            images=self.images[places],
            labels=None if self.labels is None else self.labels[places],
            targets=None if self.targets is None else self.targets[places],
            manifest=self.manifest.model_copy(update={"recipe": recipe, "provenance": None}),
        )

    @surroundings.own()
    def quantised(self) -> DistilledSet:
        """The same set with uint8 raw pixels: one byte a value, as a replay buffer stores it.

        Networks get the same inputs but for rounding and clipping: the set keeps its normalisation or its whitening.
        """
        if self.images.dtype == np.uint8:
            return self
        pixels = self.manifest.pixels.model_copy(update={"space": "raw"})
        images = np.rint(np.clip(self.raw(), 0, 1) * 255).astype(np.uint8)
        return replace(self, images=images, manifest=self.manifest.model_copy(update={"pixels": pixels}))


def _channels(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    mean, std = (np.asarray(values, dtype=np.float32) for values in (pixels.mean, pixels.std))
    return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)


def arrays_of(ds: DistilledSet) -> dict[str, np.ndarray]:
    """The arrays of a set, by the names that they have in a file."""
    whitening = ds.whitening
    parts = {
        "images": ds.images,
        "labels": ds.labels,
        "targets": ds.targets,
        "zca_offset": None if whitening is None else whitening.offset,
        "zca_matrix": None if whitening is None else whitening.matrix,
    }
    return {name: array for name, array in parts.items() if array is not None}


def _problems(ds: DistilledSet) -> list[str]:
    """What is wrong with a set, in words; reading a file runs this too."""
    arrays = arrays_of(ds)
    layouts = {name: Layout(array.dtype.name, array.shape) for name, array in arrays.items()}
    return layout_problems(ds.manifest, layouts) or _value_problems(ds.manifest, arrays)


def _value_problems(manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> list[str]:
    labels, classes = arrays.get("labels"), len(manifest.classes)
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        return [f"labels run from {labels.min()} to {labels.max()} for {classes} classes"]
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    return [f"{name} hold a value that is not finite" for name, array in floats.items() if not np.isfinite(array).all()]
