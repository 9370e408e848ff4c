"""The initial weights of an evaluation's networks: those that the set is made for, or others on request."""

from __future__ import annotations

from typing import Any

from dd_core.errors import unknown_name
from dd_core.images import Source
from dd_core.recipe import DISTRIBUTIONS, Pretraining, Recipe, StartingPool
from dd_core.training.starts import pretrained_on


def starting_at(recipe: Recipe, start: str | StartingPool, *, train: Source, pretrain_on: Source | None) -> Recipe:
    """`recipe` with networks that start from a distribution, from pre-trained weights, or from the pool `start`.

    Networks are pre-trained on `pretrain_on`, else on the images that the pool names, else on `train`. Raises
    `UserError` for an unknown `start`.
    """
    if isinstance(start, str) and start in DISTRIBUTIONS:
        return recipe.model_copy(update={"initialisation": start, "weights": None})
    if isinstance(start, str) and start != "pretrained":
        raise unknown_name("start", start, (*DISTRIBUTIONS, "pretrained"))
    distribution = "xavier" if recipe.initialisation == "xavier" else "default"
    pool = start if isinstance(start, StartingPool) else recipe.weights
    pool = pool or StartingPool(distribution=distribution, count=1)
    pretraining = pool.pretraining or Pretraining()
    if pretrain_on is not None or not pretraining.source:
        pretraining = pretrained_on(pretrain_on or train, pretraining)
    return recipe.model_copy(
        update={"initialisation": "pretrained", "weights": pool.model_copy(update={"pretraining": pretraining})}
    )


def same_start(recipe: Recipe, other: Recipe) -> bool:
    """Whether the networks of both recipes have the same kind of initial weights, whatever networks of a pool."""
    return _starting_point(recipe) == _starting_point(other)


def _starting_point(recipe: Recipe) -> dict[str, Any]:
    any_network = {"count": 1, "seed": 0, "held_out": False}
    pool = None if recipe.weights is None else recipe.weights.model_copy(update=any_network)
    return {"initialisation": recipe.initialisation, "weights": pool}


def images_to_pretrain_on(recipe: Recipe, train: Source) -> Source | None:
    """`train`, if the recipe's networks are pre-trained on exactly these images; else None."""
    pretraining = None if recipe.weights is None else recipe.weights.pretraining
    return train if pretraining is not None and pretraining.source == train.fingerprint() else None
