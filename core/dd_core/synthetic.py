"""The images that a method learns: where their pixels start, what networks see of them, and the set that they become.

    images = Synthetic(initial_real(source, counts, form, streams=streams), selection.labels_of(counts), form)
    network(images.decode(images.pixels))       # what networks see, differentiable in the pixels
    optimiser.step(); images.updated()          # after each update of the pixels
    images.export(recipe, classes=source.classes)

`total_variation` and `mean_norm` are penalties that a method may add to its loss, so that images look like photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dd_core import formation as formations
from dd_core import selection
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.images import InputForm, Source
from dd_core.recipe import Recipe
from dd_core.streams import Streams

STREAM = "initial-images"  # the stream of random numbers that initial pixels are drawn from


class Synthetic:
    """Synthetic images while a method learns them: (N, C, H, W) network inputs, on the device of `pixels`.

    pixels: the leaf that an optimiser updates; labels: (N,), or None for images without classes; form: how real images
    become network inputs; formation: networks see the formation^2 tiles of an image, each enlarged (1: the image
    itself); clamp: what is brought back into [0, 1] after each update: `raw` pixels, or the network `inputs`; ema:
    decay of a moving average of the pixels, which then becomes the set; None: no average. Raises `UserError` for images
    that the formation cannot cut into tiles.
    """

    def __init__(
        self,
        pixels: Float[Tensor, "N C H W"],
        labels: Int64[Tensor, " N"] | None,
        form: InputForm,
        *,
        formation: int = 1,
        clamp: Literal["none", "raw", "inputs"] = "none",
        ema: float | None = None,
    ) -> None:
        formations.require_possible(formation, (pixels.shape[2], pixels.shape[3]))
        assert form.whitening is None or (formation == 1 and clamp == "none"), (
            "whitened pixels are not raw ones, scaled"
        )
        self.pixels, self.labels, self.form = pixels.requires_grad_(), labels, form
        self.formation, self.clamp, self.ema = formation, clamp, ema
        self.average = None if ema is None else pixels.detach().clone()
        mean, std = (torch.tensor(values, device=pixels.device) for values in (form.mean, form.std))
        self._grey = ((formations.PADDING - mean) / std).view(-1, 1, 1)
        sides = formations.enlargements(formation, (pixels.shape[2], pixels.shape[3]))
        self._down, self._across = (torch.from_numpy(weights).to(pixels.device) for weights in sides)
        if clamp == "inputs":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        self._least, self._most = (((value - mean) / std).view(-1, 1, 1) for value in (0, 1))

    def __len__(self) -> int:
        return len(self.pixels)

    # --- what networks see ------------------------------------------------------------------------------------------

    def decode(self, pixels: Float[Tensor, "n C H W"]) -> Float[Tensor, "m C H W"]:
        """What networks see of n stored images: tile 0 of each image, then tile 1 of each, ...; m = formation^2 n."""
        if self.formation == 1:
            return pixels
        grey, down, across = (part.to(pixels.dtype) for part in (self._grey, self._down, self._across))
        return torch.cat([*formations.tiles(pixels, self.formation, grey=grey, down=down, across=across)])

    @property
    def seen_labels(self) -> Int64[Tensor, " M"]:
        """Labels of all images that networks see, in the order of `decode`, on the CPU."""
        assert self.labels is not None
        return self.labels.repeat(self.formation**2)

    def decode_classes(self, pixels: Float[Tensor, "n C H W"], counts: Sequence[int]) -> Float[Tensor, "m C H W"]:
        """What networks see of stored images of several classes, class after class; class c has counts[c] of them."""
        if self.formation == 1:
            return pixels
        return torch.cat([self.decode(part) for part in pixels.split(list(counts))])

    # --- updates and state ------------------------------------------------------------------------------------------

    def updated(self) -> None:
        """Clamp the pixels, and move their average; to be called after each update of the pixels."""
        with torch.no_grad():
            if self.clamp != "none":
                self.pixels.clamp_(self._least, self._most)
            if self.average is not None:
                assert self.ema is not None
                self.average.lerp_(self.pixels, 1 - self.ema)

    def state_dict(self) -> dict[str, Any]:
        """Pixels, and their average where there is one."""
        average = {} if self.average is None else {"average": self.average.clone()}
        return {"pixels": self.pixels.detach().clone(), **average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the pixels, and their average where there is one, of a state of `state_dict`."""
        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
            if self.average is not None:
                self.average.copy_(state["average"])

    def export(
        self,
        recipe: Recipe,
        *,
        classes: tuple[str, ...],
        targets: Float[Tensor, "N K"] | None = None,
        kind: Literal["none", "probabilities", "logits", "features"] = "none",
        attack: tuple[str, str] | None = None,
    ) -> DistilledSet:
        """The set of the pixels, or of their average, as float32 network inputs; self-supervised without `classes`.

        targets: (N, K) values of `kind`; attack: the two classes of a set that misleads networks, see `Manifest`.
        """
        manifest = Manifest(
            task="classification" if classes else "self-supervised",
            classes=classes,
            pixels=Pixels(
                space="normalised" if self.form.whitening is None else "whitened",
                mean=self.form.mean,
                std=self.form.std,
            ),
            targets=kind,
            formation=self.formation,
            recipe=recipe,
            attack=attack,
        )
        arrays = [
            None if tensor is None else tensor.detach().cpu().numpy().copy()
            for tensor in (self.pixels if self.average is None else self.average, self.labels, targets)
        ]
        images, labels, values = arrays
        assert images is not None
        return DistilledSet(images, labels, manifest, values, self.form.whitening)


# --- where pixels start ------------------------------------------------------------------------------------------


def initial_noise(count: int, image_shape: tuple[int, int, int], *, streams: Streams, stream: str = STREAM) -> Tensor:
    """(count, C, H, W) standard normal pixels, on the CPU."""
    return torch.randn(count, *image_shape, generator=streams.generator(stream))


def initial_real(
    source: Source,
    counts: Sequence[int],
    form: InputForm,
    *,
    streams: Streams,
    device: torch.device,
    formation: int = 1,
) -> Tensor:
    """Random real images, class-major, as network inputs; with a formation, each is a grid of formation^2 reduced ones.

    An image is repeated only where all images of its class have been drawn. Raises `UserError` for a class with fewer
    than `counts[c]` real images.
    """
    if formation == 1:
        rows = selection.random_indices(source, counts, streams=streams, stream=STREAM)
        return form(source.take(rows).to(device))
    formations.require_possible(formation, source.image_shape[1:])
    chosen: list[Tensor] = []
    for label, members in enumerate(selection.members_of(source, counts)):
        order = torch.randperm(len(members), generator=streams.generator(STREAM, label))
        wanted = counts[label] * formation**2
        chosen.append(members[order.repeat(-(-wanted // len(members)))[:wanted]])
    return mosaic(form(source.take(torch.cat(chosen)).to(device)), formation)


def mosaic(images: Float[Tensor, "m C H W"], formation: int) -> Float[Tensor, "n C H W"]:
    """Grids of formation^2 consecutive images, each reduced to a tile; `Synthetic.decode` nearly inverts this.

    Where the formation does not divide a side, the last tiles are cut off; `decode` completes them with grey.
    """
    if formation == 1:
        return images
    channels, height, width = images.shape[1:]
    rows, columns = formations.tile_size(formation, (height, width))
    tiles = F.interpolate(images, size=(rows, columns), mode="bilinear", antialias=True)
    grid = tiles.view(-1, formation, formation, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    whole = grid.reshape(-1, channels, formation * rows, formation * columns)
    return whole[:, :, :height, :width].contiguous()


# --- penalties ----------------------------------------------------------------------------------------------------


def total_variation(images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Sum over four directions of the L2 norm of all differences between neighbouring pixels (Yin et al. 2020)."""
    down, right = images[:, :, 1:], images[:, :, :, 1:]
    differences: Sequence[Tensor] = (
        right - images[:, :, :, :-1],
        down - images[:, :, :-1],
        down[:, :, :, 1:] - images[:, :, :-1, :-1],
        down[:, :, :, :-1] - right[:, :, :-1],
    )
    return torch.stack([difference.norm() for difference in differences]).sum()


def mean_norm(images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """The L2 norm of an image, averaged over images."""
    return images.flatten(1).norm(dim=1).mean()
