"""Names of a package that are loaded when they are first used, so that its light modules load no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def names_of(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """The module-level `__getattr__` (PEP 562) of `package`; `homes` has the module that each public name lives in.

    A home is a module below `package`, or `module:name` where the name there is another one. A name is looked up once,
    and is an ordinary attribute of the package from then on.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, attribute = homes[name].partition(":")
        value = getattr(importlib.import_module(f"{package}.{module}"), attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    return load
