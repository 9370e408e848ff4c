"""Starting weights as artefacts: fresh draws, and networks pre-trained on real images (Wang et al. 2018, section 3.3).

A set may be made for networks that start from pre-trained weights, or from one particular network's. The first is
scored on *held-out* pre-trained networks, the second on that very network: its digest is in the recipe, and the
weights are found in the cache, or made again and compared with the digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from dd_core import artefacts, training
from dd_core import device as devices
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Resources, Tensors
from dd_core.distilled import Pretraining, Recipe, Weights
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.parallel import Workers
from dd_core.streams import Streams


class StartingWeights(ArtefactSpec):
    """A pool of networks for images (C, H, W): part i holds the state of network i."""

    kind: ClassVar[str] = "starting-weights"

    network: str
    image_shape: tuple[int, int, int]
    classes: int
    weights: Weights

    def parts(self) -> int:
        """One network a part."""
        return self.weights.count

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Draw network `index` from its own stream, and pre-train it if the pool is of such.

        Raises `UserError` where the images to pre-train on are not among the resources, or are of another form.
        """
        weights = self.weights
        streams = Streams(weights.seed).child("held-out" if weights.held_out else "starting-weights", index)
        recipe = Recipe(network=self.network, initialisation=weights.distribution)
        model = training.initialised(recipe, self.image_shape, self.classes, streams=streams)
        facts: dict[str, Any] = {}
        if weights.pretraining is not None:
            source = self._images(resources, weights.pretraining.source)
            device = devices.resolve(resources.device)
            facts["loss"] = training.pretrain(model, source, weights.pretraining, streams=streams, device=device)
        state = model.cpu().state_dict()
        return {f"t{position}": value.numpy() for position, value in enumerate(state.values())}, {
            "names": list(state),
            **facts,
        }

    def _images(self, resources: Any, fingerprint: str) -> Source:
        sources = resources.sources if isinstance(resources, Resources) else {}
        if fingerprint not in sources:
            raise UserError(
                f"networks are to be pre-trained on images with the fingerprint {fingerprint[:12]}..., which are not "
                "at hand; --pretrain-on names them"
            )
        source = sources[fingerprint]
        if source.image_shape != self.image_shape or len(source.classes) != self.classes:
            theirs, ours = _form(source.image_shape, len(source.classes)), _form(self.image_shape, self.classes)
            raise UserError(f"networks are to be pre-trained on {source.name} ({theirs}), and are for {ours}")
        return source


def _form(image_shape: tuple[int, int, int], classes: int) -> str:
    return f"{classes} classes of {'x'.join(map(str, image_shape))} images"


def load(model: nn.Module, pool: Artefact, index: int) -> nn.Module:
    """`model` with the weights of network `index` of a pool."""
    tensors, facts = pool.part(index)
    state = {name: torch.tensor(tensors[f"t{position}"]) for position, name in enumerate(facts["names"])}
    model.load_state_dict(state)
    return model


def spec_of(recipe: Recipe, image_shape: tuple[int, int, int], classes: int, weights: Weights) -> StartingWeights:
    """The pool `weights` of the recipe's network, for images (C, H, W)."""
    return StartingWeights(network=recipe.network, image_shape=image_shape, classes=classes, weights=weights)


def of_recipe(
    recipe: Recipe,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    count: int,
    seed: int = 0,
    pretrain_on: Source | None = None,
    device: str = "auto",
    workers: Workers | None = None,
) -> Artefact | None:
    """Where networks start that a set is scored on; None where they are drawn from a distribution.

    For `pretrained` a pool of `count` held-out networks, for particular weights a pool of that one network; the images
    of `pretrain_on` are needed unless the pool is in the cache. Raises `UserError` where they are not those that the
    recipe means, and where the weights made here are not the ones that it names.
    """
    if pretrain_on is not None:
        _check_meant(recipe.weights, pretrain_on)
    if recipe.weights is None:
        return None
    weights = recipe.weights
    if not recipe.for_one_network:
        weights = weights.model_copy(update={"count": count, "seed": weights.seed + seed, "held_out": True})
    spec = spec_of(recipe, image_shape, classes, weights)
    sources = () if pretrain_on is None else (pretrain_on,)
    pool = artefacts.get(spec, resources=Resources.of(sources, device=device), workers=workers)
    if recipe.for_one_network and recipe.initialisation != f"sha256:{pool.content}":
        raise UserError(
            f"the set is for a network with the weights {recipe.initialisation[:19]}..., and making them here gave "
            f"sha256:{pool.content[:12]}...; replace {pool.folder} by that folder from where it was distilled"
        )
    return pool


def _check_meant(weights: Weights | None, given: Source) -> None:
    how = None if weights is None else weights.pretraining
    if how is None:
        raise UserError(f"the set's networks are not pre-trained; leave out {given.name} to pre-train on")
    if how.source != given.fingerprint():
        raise UserError(
            f"the set is for networks pre-trained on other images (fingerprint {how.source[:12]}...) than those of "
            f"{given.name} ({given.fingerprint()[:12]}...)"
        )


def pretrained_on(source: Source, given: Pretraining) -> Pretraining:
    """`given` with the images spelled out: those of `source` unless it names others."""
    return given if given.source else given.model_copy(update={"source": source.fingerprint()})
