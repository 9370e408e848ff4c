"""A setting of a library, and how one that is an attribute is read and written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """A setting of a library: how it is read and written, and the values under which the engine computes.

    The first of `ours` is written where the setting has none of them.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    ours: tuple[Any, ...]


def attribute(holder: Any, name: str, *ours: Any) -> Setting:
    """The setting that is the attribute `name` of `holder`."""
    return Setting(value_or(ours[0], lambda: getattr(holder, name)), lambda value: setattr(holder, name, value), ours)


def value_or(default: Any, read: Callable[[], Any]) -> Callable[[], Any]:
    """`read`, and `default` where torch refuses: of two spellings of a precision only one can be read at a time."""

    def value() -> Any:
        try:
            return read()
        except RuntimeError:
            return default

    return value
