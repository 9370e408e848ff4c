"""Networks by import path (`module:Class`), beside those by the names of `names`; imports no torch.

`my_package.nets:SmallNet` is the class or function `SmallNet` in the module `my_package.nets`. It is called with
(in_channels, outputs, image_size) and returns the network.
"""

from __future__ import annotations

import importlib
from typing import Any

from dd_core.errors import UserError
from dd_core.networks.names import family, others_by_name

LIBRARIES = ("timm", "torchvision")  # words before a colon that belong to a network's name


def is_import_path(name: str) -> bool:
    """Whether `name` is `module:attribute`, an object of a program, and not the name of one of our networks."""
    before, colon, _ = name.partition(":")
    return bool(colon) and before not in LIBRARIES and name not in others_by_name()


def check_network(name: str) -> None:
    """Raise `UserError` for an unknown name and for a malformed import path; nothing is imported."""
    if not is_import_path(name):
        family(name)
        return
    words = name.split(":")
    if len(words) != 2 or not all(part.isidentifier() for word in words for part in word.split(".")):
        raise UserError(f"network '{name}' is no import path; type module:Class, such as my_package.nets:SmallNet")


def imported(name: str) -> Any:
    """The object that the import path `name` names; raises `UserError` where there is none."""
    check_network(name)
    module, _, attribute = name.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        hint = "for a module in the working folder set PYTHONPATH=."
        raise UserError(f"network '{name}' cannot be imported: {error}; {hint}") from error
    return value
