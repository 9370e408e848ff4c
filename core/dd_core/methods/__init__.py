"""The table of methods: the name that a user types, and the config class that it is imported from on demand."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from dd_core.config import Config, decode, plain
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError, unknown_name
from dd_core.lazy import offers

METHODS = {
    "average": "dd_core.methods.average:AverageConfig",
    "datm": "dd_core.methods.trajectory_matching.config:DATMConfig",
    "dataset-distillation": "dd_core.methods.dataset_distillation.config:DatasetDistillationConfig",
    "dc": "dd_core.methods.gradient_matching.config:DCConfig",
    "dm": "dd_core.methods.dm.config:DMConfig",
    "dsa": "dd_core.methods.gradient_matching.config:DSAConfig",
    "ftd": "dd_core.methods.trajectory_matching.config:FTDConfig",
    "herding": "dd_core.methods.herding:HerdingConfig",
    "k-means": "dd_core.methods.k_means:KMeansConfig",
    "krr-st": "dd_core.methods.krr_st.config:KRRSTConfig",
    "m-datm": "dd_core.methods.trajectory_matching.config:MDATMConfig",
    "mtt": "dd_core.methods.trajectory_matching.config:MTTConfig",
    "optimized": "dd_core.methods.optimized.config:OptimizedConfig",
    "random": "dd_core.methods.random:RandomConfig",
    "rded": "dd_core.methods.rded:RDEDConfig",
    "sre2l": "dd_core.methods.sre2l.config:SRe2LConfig",
    "tesla": "dd_core.methods.trajectory_matching.config:TESLAConfig",
}


def names() -> list[str]:
    """The names of all methods, sorted; those of other packages come from entry points `dd_core.methods`."""
    return sorted({*METHODS, *offers("dd_core.methods")})


def load(name: str) -> type[MethodConfig]:
    """The config class of the method `name`; imports no other method. Raises `UserError` for an unknown name."""
    target = METHODS.get(name)
    if target is None:
        others = offers("dd_core.methods")
        if name not in others:
            raise unknown_name("method", name, names())
        return others[name].load()
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def decode_method(table: Mapping[str, Any], *, where: str = "", key: str = "method") -> MethodConfig:
    """The config of `{"name": ..., option: value, ...}`; raises `UserError` naming `key.option`.

    A nested table, such as `recipe`, may be given in part: keys that it lacks have the method's own defaults.
    """
    options = dict(table)
    name = options.pop("name", None)
    if not isinstance(name, str):
        prefix = f"{where}: " if where else ""
        raise UserError(f"{prefix}{key}.name: required; one of {', '.join(names())}")
    config = load(name)
    for option, field in config.model_fields.items():
        if option in options and isinstance(field.default, Config):
            options[option] = _completed(options[option], plain(field.default))
    return decode(config, options, where=where, key=key)


def _completed(given: Any, default: Any) -> Any:
    """`given` with the keys that it lacks taken from `default`, where both are tables; else `given`."""
    if not (isinstance(given, Mapping) and isinstance(default, Mapping)):
        return given
    rest = {key: _completed(given[key], value) for key, value in default.items() if key in given}
    return {**default, **given, **rest}


def as_method(given: Any) -> MethodConfig:
    """A method's config from its name, from a table `{"name": "dm", "steps": 500}`, or from the config itself.

    Raises `UserError` for anything else, and for an unknown name or option.
    """
    if isinstance(given, MethodConfig):
        return given
    if isinstance(given, str):
        return decode_method({"name": given})
    if isinstance(given, Mapping):
        return decode_method(given)
    raise UserError(
        f"the method is {'the class ' + given.__name__ if isinstance(given, type) else f'a {type(given).__name__}'}; "
        "give its name, such as 'dm', a table such as {'name': 'dm', 'steps': 500}, or method('dm', steps=500)"
    )


def method(name: str, **options: Any) -> MethodConfig:
    """The config of the method `name` with `options`: `method("dm", steps=500)`; raises what `decode_method` raises."""
    return decode_method({"name": name, **options})
