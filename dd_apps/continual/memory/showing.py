"""Replay of memory images by their stored views, with the class probabilities that a teacher gave each view.

A turn is a pass over the whole memory. Turn t of an experience shows the views of epoch (s + t) modulo E of the bank's
E epochs, where s is drawn for the experience, so that a short experience does not show the first views only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dd_apps.continual.adapter import RawClass, generators_kept, replay_dataset
from dd_apps.continual.memory.holding import ClassImages, ids_of
from dd_apps.continual.memory.soft_labels import widened
from dd_core.augment import views
from dd_core.errors import UserError
from dd_core.recipe import Recipe
from dd_core.streams import Streams


class ShownViews:
    """The views of all N images of `groups`, after their transforms for evaluation.

    recipe: its temperature softens logits; streams: random numbers of the experience that is learned.
    """

    def __init__(self, groups: Sequence[ClassImages], recipe: Recipe, streams: Streams) -> None:
        stored = [group.views for group in groups]
        counts = [each.flips.shape[1] for each in stored]
        self.boxes = torch.cat([torch.from_numpy(each.boxes) for each in stored], dim=1)
        self.flips = torch.cat([torch.from_numpy(each.flips) for each in stored], dim=1)
        self.logits = [torch.from_numpy(each.logits) for each in stored]
        self.ids = [ids_of(group.held.sets[0]).tolist() for group in groups]
        self.group_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        self.place_of = torch.cat([torch.arange(count) for count in counts])
        blacks = [_black(group.label, group.held.like[group.label], recipe) for group in groups]
        self.black = torch.stack(blacks)[:, :, None, None]
        self.temperature = recipe.temperature
        self.first = int(torch.randint(len(self.boxes), (), generator=streams.generator("bank")))

    def epochs(self, turns: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """The epoch of the bank that each turn shows."""
        return (self.first + turns) % len(self.boxes)

    def shown(
        self, images: Float[Tensor, "n C H W"], rows: Int64[Tensor, " n"], epochs: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n C H W"]:
        """The views, in the bank's `epochs`, of the memory's images `rows`, whose network inputs are `images`."""
        black = self.black[self.group_of[rows]]
        return views.crops(images - black, self.boxes[epochs, rows].long(), self.flips[epochs, rows]) + black

    def targets(
        self, rows: Int64[Tensor, " n"], epochs: Int64[Tensor, " n"], *, outputs_of: Mapping[int, int], width: int
    ) -> Float[Tensor, "n K"]:
        """softmax(logits / T) of these views for a network of K = `width` outputs; 0 for classes new to the teacher.

        Raises what `widened` raises.
        """
        targets = torch.zeros(len(rows), width)
        for group in self.group_of[rows].unique().tolist():
            own = (self.group_of[rows] == group).nonzero().flatten()
            logits = self.logits[group][epochs[own], self.place_of[rows[own]]].float()
            targets[own], _ = widened((logits / self.temperature).softmax(1), self.ids[group], outputs_of, width)
        return targets


def require_viewable(raw: Mapping[int, RawClass], recipe: Recipe) -> None:
    """Raise `UserError` where the transforms for evaluation make something of an image that has no views."""
    for label, like in raw.items():
        _black(label, like, recipe)


def _black(label: int, like: RawClass, recipe: Recipe) -> Float[Tensor, " C"]:
    """A black pixel of a class as a network input if the recipe's views pad an image with black; else zeros."""
    black = torch.zeros((1, *like.images.shape[1:]), dtype=torch.uint8)
    with generators_kept():
        made = replay_dataset(black, label, like).eval()[0][0]
    size = tuple(like.images.shape[2:])
    if not isinstance(made, Tensor) or not made.is_floating_point() or made.ndim != 3 or made.shape[1:] != size:
        found = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise UserError(
            f"class {label}: its transforms for evaluation make {found} of an image; labels='bank' shows views of "
            f"float tensors (C, {size[0]}, {size[1]}), as large as the stored images"
        )
    colour = made[:, 0, 0]
    padded = recipe.views is not None and recipe.views.padding > 0
    if padded and not torch.equal(made, colour[:, None, None].expand_as(made)):
        raise UserError(
            f"class {label}: its transforms for evaluation make several colours of black, and recipe.views.padding "
            "shows black beyond an image; use recipe.views.crop instead"
        )
    return colour if padded else torch.zeros_like(colour)
