"""A budget of image-passes: how often one image may go through a network in training; imports no torch."""

from __future__ import annotations

from dd_core.errors import Option, UserError
from dd_core.recipe import Recipe

PASSES = Option("passes")


def epochs_within(passes: int, images: int) -> int:
    """The whole epochs over `images` images within a budget of `passes` image-passes, and one at least.

    One epoch is trained even where the budget is smaller than the set, which then costs `images` passes.
    """
    return max(1, passes // images)


def within(recipe: Recipe, passes: int | None, images: int) -> Recipe:
    """The recipe with the epochs of a budget, over which its learning rate runs its course; None keeps its own epochs.

    Raises `UserError` for a budget below 1, and for one on a learned order of steps.
    """
    if passes is None:
        return recipe
    require_positive(passes)
    if recipe.steps:
        raise UserError(f"{PASSES}: the recipe is a learned order of {len(recipe.steps)} steps, which has no epochs")
    return recipe.model_copy(update={"epochs": epochs_within(passes, images)})


def passes_of(recipe: Recipe, images: int) -> int:
    """The image-passes of training on `images` images by `recipe`."""
    if recipe.steps:
        blocks = 1 + max(step.step for step in recipe.steps)
        return len(recipe.steps) * images // blocks
    return recipe.epochs * images


def require_positive(passes: int) -> None:
    """Raise `UserError` for a budget below 1."""
    if passes < 1:
        raise UserError(f"{Option('passes', passes)}: a budget is 1 image-pass at least")
