"""Networks before their first step: freshly drawn as a recipe says, or with the weights of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from dd_core import networks
from dd_core.distilled import DistilledSet, pretraining_problems
from dd_core.errors import UserError
from dd_core.networks.own import Network, is_own, name_of
from dd_core.recipe import Recipe
from dd_core.streams import Streams

if TYPE_CHECKING:
    from dd_core.artefacts import Artefact


def initialised(
    recipe: Recipe,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    streams: Streams,
    start: Artefact | None = None,
    index: int = 0,
) -> nn.Module:
    """The recipe's network on the CPU: network `index` of the pool `start`, or drawn as the recipe says.

    Raises `UserError` where the recipe needs a pool and `start` is None.
    """
    channels, height, width = image_shape
    model = networks.build(
        recipe.network, in_channels=channels, classes=classes, image_size=(height, width), seed=streams.seed
    )
    if start is not None:
        return load_weights(model, start, index)
    if recipe.initialisation == "xavier":
        networks.initialise_xavier(model, generator=streams.generator("xavier"))
    elif recipe.initialisation != "default":
        raise UserError(
            f"this set is for networks that start from the weights '{recipe.initialisation[:19]}', and none are given"
        )
    return model


def load_weights(model: nn.Module, pool: Artefact, index: int) -> nn.Module:
    """`model` with the weights of network `index` of a pool (`starts.StartingWeightsSpec`)."""
    tensors, facts = pool.part(index)
    state = {name: torch.tensor(tensors[f"t{position}"]) for position, name in enumerate(facts["names"])}
    model.load_state_dict(state)
    return model


def for_network(recipe: Recipe, network: Network | None) -> Recipe:
    """The recipe for another network; a network of the caller's own keeps its own initial weights.

    Raises `UserError` where the recipe holds for one particular network only.
    """
    if network is None or network == recipe.network:
        return recipe
    _require_any_network(recipe, name_of(network))
    if is_own(network):
        return recipe.model_copy(update={"initialisation": "default", "weights": None})
    return recipe.model_copy(update={"network": network})


def _require_any_network(recipe: Recipe, network: str) -> None:
    if recipe.for_one_network:
        raise UserError(
            f"this set is for one network, a {recipe.network} that starts from the weights "
            f"{recipe.initialisation[:19]}..., and not for {network}; leave out the network"
        )


def require_startable(ds: DistilledSet, recipe: Recipe) -> None:
    """Raise `UserError` where `recipe` starts from pre-trained networks, and `ds` is whitened."""
    if ds.whitening is not None:
        for problem in pretraining_problems(recipe):
            raise UserError(f"the set is whitened: {problem}")


def require_pure(recipe: Recipe, image_shape: tuple[int, int, int], classes: int, *, method: str) -> None:
    """Raise `UserError` for a network with dropout or batch norm: only functions of image and weights are unrolled."""
    model = initialised(recipe, image_shape, classes, streams=Streams(0))
    for module in model.modules():
        kind = type(module).__name__
        if kind.startswith(("Drop", "BatchNorm")):
            raise UserError(
                f"recipe.network: '{recipe.network}' has a {kind}, whose output depends on more than images and "
                f"weights; {method} needs a network without, such as lenet or convnet-2"
            )
