"""A budget of image-passes: training epochs times images; imports no torch."""

from __future__ import annotations

from dd_core.errors import Option, UserError
from dd_core.recipe import Recipe

PASSES = Option("passes")


def epochs_within(passes: int, images: int) -> int:
    """The number of whole epochs over `images` images within a budget of `passes` image-passes, at least one.

    One epoch is trained even where the budget is smaller than the set; it then costs `images` passes.
    """
    return max(1, passes // images)


def within(recipe: Recipe, passes: int | None, images: int) -> Recipe:
    """The recipe with as many epochs as a budget allows, to which its schedule adapts; None keeps the recipe's epochs.

    Raises `UserError` for a budget below 1, and for a recipe of learned steps, which has no epochs.
    """
    if passes is None:
        return recipe
    require_positive(passes)
    if recipe.steps:
        raise UserError(f"{PASSES}: the recipe has {len(recipe.steps)} learned steps and no epochs; leave passes out")
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
        raise UserError(f"{Option('passes', passes)}: expected at least 1 image-pass")
