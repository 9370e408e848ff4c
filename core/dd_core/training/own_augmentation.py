"""An augmentation of a program's own: a function of network inputs that replaces the recipe's augmentation.

A function cannot be written into a file, so it is an argument of training, and never enters a recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dd_core.errors import UserError
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system.surroundings.generators import generators_seeded

Augmentation = Callable[[Tensor], Tensor]  # network inputs (n, C, H, W) -> the same shape


def name_of(augmentation: Augmentation) -> str:
    """The name of the function for tables and errors."""
    return getattr(augmentation, "__name__", type(augmentation).__name__)


def check_augmentation(augmentation: Any, recipe: Recipe) -> None:
    """Raise `UserError` for an augmentation that is not a function, and for a recipe that excludes augmentation."""
    if not callable(augmentation) or isinstance(augmentation, type):
        kind = f"the class {augmentation.__name__}" if isinstance(augmentation, type) else repr(augmentation)[:40]
        raise UserError(
            f"augmentation is {kind}; give a function of network inputs (n, C, H, W) that returns the same shape, or "
            "put the name of a strategy into the recipe: Recipe(augmentation='color_crop')"
        )
    if recipe.steps:
        raise UserError("the recipe has learned steps, which take images without augmentation; leave out augmentation")
    if recipe.teacher != "none":
        raise UserError(
            "the recipe's teacher labels the networks' inputs, and an augmentation would change the inputs after that; "
            "leave out augmentation"
        )


def augmented(augmentation: Augmentation, inputs: Tensor, *, streams: Streams, step: int) -> Tensor:
    """The function's result for `inputs`; streams and step seed the global CPU generators that it draws from.

    Raises `UserError` where the function fails, or returns another shape or type than that of `inputs`.
    """
    try:
        with generators_seeded(streams.seed, "own-augmentation", step):
            outputs: Any = augmentation(inputs)
    except Exception as error:  # a user's code, which raises anything at all
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"augmentation '{name_of(augmentation)}' fails for inputs {tuple(inputs.shape)}: {line}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.shape != inputs.shape or outputs.dtype != inputs.dtype:
        found = type(outputs).__name__
        if isinstance(outputs, Tensor):
            found = f"{outputs.dtype} {tuple(outputs.shape)}"
        raise UserError(
            f"augmentation '{name_of(augmentation)}' gives {found} for inputs {inputs.dtype} {tuple(inputs.shape)}; it "
            "must return the same shape and type"
        )
    return outputs
