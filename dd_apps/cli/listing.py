"""`list`: data sets, methods, networks, presets, protocols and scenarios by name. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Protocol

import typer
from pydantic import BaseModel

from dd_apps import scenario
from dd_apps.cli.options import Json
from dd_apps.cli.terminal import Answer, Page
from dd_apps.report.tables import Table
from dd_core import datasets, methods
from dd_core.config import canonical, describe, plain
from dd_core.errors import UserError, unknown_name
from dd_core.evaluation import protocols
from dd_core.methods import presets
from dd_core.networks import names as network_names

Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="datasets, methods, networks, presets, protocols or scenarios.")
]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name from that list, to show in full.")]


def list_(kind: Kind = "", name: Name = None, *, as_json: Json = False) -> Answer:
    """List all names of a KIND; with NAME, show that one in full."""
    kinds: dict[str, _Kind] = {
        "datasets": _Datasets(),
        "methods": _Methods(),
        "networks": _Networks(),
        "presets": _Presets(),
        "protocols": _Protocols(),
        "scenarios": _Scenarios(),
    }
    if not kind:
        raise UserError(f"list what? One of {', '.join(kinds)}")
    if kind not in kinds:
        raise unknown_name("kind of list", kind, kinds)
    if name is not None:
        fields = {"name": name, **kinds[kind].details(name)}
        return Answer(fields, lambda page: _show_details(page, fields))
    rows = kinds[kind].rows()
    return Answer({kind: rows}, lambda page: page.table(Table(kind, rows)))


def _show_details(page: Page, fields: dict[str, Any]) -> None:
    """Single values first, then each list of rows as a table."""
    tables = {name: value for name, value in fields.items() if isinstance(value, list)}
    page.facts({name: _text(value) for name, value in fields.items() if name not in tables})
    for name, rows in tables.items():
        page.line()
        page.table(Table(name, rows))


def _text(value: object) -> str:
    return value if isinstance(value, str) else canonical(value)


class _Kind(Protocol):
    def rows(self) -> list[dict[str, Any]]: ...
    def details(self, name: str) -> dict[str, Any]: ...


class _Datasets:
    def rows(self) -> list[dict[str, Any]]:
        return [{"name": name, "meaning": meaning} for name, meaning in datasets.DATASETS.items()]

    def details(self, name: str) -> dict[str, Any]:
        if name not in datasets.DATASETS:
            raise unknown_name("data set", name, datasets.DATASETS)
        return {"meaning": datasets.DATASETS[name]}


class _Methods:
    def rows(self) -> list[dict[str, Any]]:
        return [{"name": name, "meaning": methods.load(name).summary} for name in methods.names()]

    def details(self, name: str) -> dict[str, Any]:
        method = methods.load(name)
        return {"meaning": method.summary, "settings": settings_of(method)}


def settings_of(model: type[BaseModel], default: BaseModel | None = None, prefix: str = "") -> list[dict[str, str]]:
    """Every key that `--set` takes, with type, default and meaning; those of nested tables come last."""
    rows: list[dict[str, str]] = []
    nested: list[dict[str, str]] = []
    for row in describe(model):
        field = model.model_fields[row["key"]]
        value = field.get_default(call_default_factory=True) if default is None else getattr(default, row["key"])
        if isinstance(value, BaseModel):
            nested += settings_of(type(value), value, f"{prefix}{row['key']}.")
            continue
        shown = row["default"] if default is None else canonical(plain(value))
        rows.append({**row, "key": prefix + row["key"], "default": shown})
    return rows + nested


class _Networks:
    def rows(self) -> list[dict[str, Any]]:
        return [{"name": name, "meaning": meaning} for name, meaning in network_names.available()]

    def details(self, name: str) -> dict[str, Any]:
        family = network_names.family(name)
        known = dict(network_names.available())
        meaning = {"meaning": known[name]} if name in known else {}
        shape = asdict(network_names.parse_convnet(name)) if family == "convnet" else {}
        return {"family": family, **meaning, **shape}


class _Presets:
    def rows(self) -> list[dict[str, Any]]:
        return [{"name": name, "meaning": meaning} for name, meaning in presets.PRESETS.items()]

    def details(self, name: str) -> dict[str, Any]:
        if name not in presets.PRESETS:
            raise unknown_name("preset", name, presets.PRESETS)
        rows = [
            {"method": method, "up to": f"{side} px", **_flat(presets.preset(name, method, image_size=side))}
            for method in presets.PHOTOS
            for side in presets.SIDES
        ]
        return {"meaning": presets.PRESETS[name], "settings": rows}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of settings with the keys that `--set` takes."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


class _Protocols:
    def rows(self) -> list[dict[str, Any]]:
        return [{"name": name, "meaning": protocols.load(name).description} for name in protocols.names()]

    def details(self, name: str) -> dict[str, Any]:
        protocol = protocols.load(name)
        return {"meaning": protocol.description, **protocol.changes, **protocol.grid}


class _Scenarios:
    def rows(self) -> list[dict[str, Any]]:
        return [{"name": name, "meaning": scenario.summary(path)} for name, path in scenario.shipped().items()]

    def details(self, name: str) -> dict[str, Any]:
        loaded = scenario.load(name)
        values = [{"key": key, "value": _text(value)} for key, value in plain(loaded.values).items()]
        facts = {"meaning": scenario.summary(loaded.path), "path": str(loaded.path), "task": loaded.task}
        return {**facts, "values": values, "settings": settings_of(type(loaded.values))}
