"""Checks of a scenario before its first job: its experiences, its methods, and its rare classes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from dd_apps.continual.config import ContinualScenario, memory_config
from dd_apps.continual.orders import experience_sizes
from dd_apps.continual.rows import bank_bytes
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import Source, indices_by_class, require_labels

NAMED = 3  # number of rare classes that a note names


def check_scenario(scenario: ContinualScenario, train: Source, test: Source) -> tuple[str, ...]:
    """Notes for below the tables of a scenario: one if some classes have fewer images than the memory keeps.

    Raises `UserError` for classes that differ between the splits, for a class without training or test images, for more
    experiences than classes, and for a method that cannot make as many images of each class as the memory keeps. No
    image is decoded.
    """
    if train.classes != test.classes:
        raise UserError(f"{train.name}: training and test images do not have the same classes")
    untested = set(range(len(test.classes))) - set(require_labels(test).tolist())
    if untested:
        name = test.classes[min(untested)]
        raise UserError(f"{train.name}: class '{name}' has no test images, so its accuracy cannot be measured")
    experience_sizes(len(train.classes), scenario.experiences)
    counts = [len(members) for members in indices_by_class(train)]
    rooms = {row: _room(scenario, row, train) for row in scenario.rows}
    for row, room in rooms.items():
        if (method := scenario.memory_method(row)) is not None:
            memory_config(method).check(train, Size.of([min(room, count) for count in counts]))
    most = max((room for row, room in rooms.items() if scenario.row_of(row).memory not in ("none", "joint")), default=0)
    return _rare(most, train.classes, counts)


def _room(scenario: ContinualScenario, name: str, train: Source) -> int:
    """Images of a class that a row's memory keeps; a bank's bytes are those of the experience with most classes."""
    image, row = prod(train.image_shape), scenario.row_of(name)
    count = scenario.images_of_class(name, image_bytes=image, classes=len(train.classes))
    if row.bank_epochs is None or row.budget == "images":
        return count
    together = max(experience_sizes(len(train.classes), scenario.experiences))
    item = image + bank_bytes(row.bank_epochs, together)
    if count * image < item:
        raise UserError(
            f"row.{name}: {count * image} bytes a class hold no image of {image} bytes with {row.bank_epochs} views by "
            f'a teacher of {together} classes, {item} bytes in all; give the row budget = "images", fewer bank_epochs, '
            "or a larger memory"
        )
    return count * image // item


def _rare(most: int, classes: Sequence[str], counts: Sequence[int]) -> tuple[str, ...]:
    rare = [(name, count) for name, count in zip(classes, counts, strict=True) if count < most]
    if not rare:
        return ()
    named = ", ".join(f"'{name}' has {count}" for name, count in rare[:NAMED])
    more = f", and {len(rare) - NAMED} more" if len(rare) > NAMED else ""
    what = "class has" if len(rare) == 1 else "classes have"
    return (
        f"{len(rare)} {what} fewer training images than images_per_class ({most}); the memory "
        f"keeps as many images of each as there are: {named}{more}",
    )
