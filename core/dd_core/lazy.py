"""Loading on first use: names of a package, so that its light modules import no torch, packages of extras, plugins."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from dd_core.errors import NotInstalled


def names_of(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """The module-level `__getattr__` (PEP 562) of `package`; `homes` has the module that each public name lives in.

    A home is a module below `package`, or `module:name` where the name differs in that module. A name is looked up
    once, and is an ordinary attribute of the package from then on.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, attribute = homes[name].partition(":")
        value = getattr(importlib.import_module(f"{package}.{module}"), attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    return load


def require(module: str, *, called: str, use: str, extra: str) -> None:
    """Import a module of a package that an extra installs.

    called: the name of the package in a sentence; use: what needs the package. Raises `NotInstalled` where the package,
    or a module that it imports, is missing.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = "" if error.name == module.partition(".")[0] else f" (without {error.name} it cannot be imported)"
        raise NotInstalled(
            f"{use} needs {called}{missing}; install the extra: pip install 'dd-apps[{extra}]'"
        ) from None


@runtime_checkable
class Offer(Protocol):
    """An entry point of another package, not yet imported: an object of `importlib.metadata` or of its backport.

    Where a library, such as NNI, has imported the backport `importlib_metadata`, entry points are the backport's.
    """

    @property
    def module(self) -> str:
        """The module that holds the offered object."""
        ...

    def load(self) -> Any:
        """Import the module, and return the offered object."""
        ...


def offers(group: str) -> dict[str, Offer]:
    """The entry points of installed packages in the group `group`, by name."""
    return {point.name: point for point in entry_points(group=group)}
