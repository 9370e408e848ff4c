"""The table of protocols: the name that a user types, and the class to import on demand; imports no torch."""

from __future__ import annotations

import importlib

from dd_core.errors import unknown_name
from dd_core.evaluation.protocol import EvaluationProtocol
from dd_core.lazy import offers

_HERE = "dd_core.evaluation.protocols"
PROTOCOLS = {
    "recipe": f"{_HERE}.recipes:RecipeProtocol",
    "plain-300": f"{_HERE}.recipes:Plain300Protocol",
    "dm-1000": f"{_HERE}.recipes:DM1000Protocol",
    "mtt-1000": f"{_HERE}.recipes:MTT1000Protocol",
    "datm-soft": f"{_HERE}.recipes:DATMSoftProtocol",
    "challenge-2024": f"{_HERE}.challenge:Challenge2024Protocol",
    "wang-grid": f"{_HERE}.wang:WangGridProtocol",
    "sre2l-fkd": f"{_HERE}.sre2l:SRe2LFKDProtocol",
    "sre2l-kd": f"{_HERE}.sre2l:SRe2LKDProtocol",
    "sre2l-cifar": f"{_HERE}.sre2l:SRe2LCIFARProtocol",
    "hard": f"{_HERE}.sre2l:HardProtocol",
    "knn": f"{_HERE}.wang:NearestNeighboursProtocol",
}


def names() -> list[str]:
    """The names of all protocols; those of other packages (entry points `dd_core.protocols`) come last."""
    return [*PROTOCOLS, *sorted({*offers("dd_core.protocols")} - {*PROTOCOLS})]


def load(name: str) -> EvaluationProtocol:
    """The protocol called `name`; imports no other protocol. Raises `UserError` for an unknown name."""
    target = PROTOCOLS.get(name)
    if target is None:
        others = offers("dd_core.protocols")
        if name not in others:
            raise unknown_name("protocol", name, names())
        return others[name].load()()
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)()
