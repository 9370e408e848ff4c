"""Descriptions of a distilled set: one line, tables of facts, and HTML with images for notebooks. No torch."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dd_core.config import canonical, plain
from dd_core.distilled.pictures import contact_sheet, png_bytes

if TYPE_CHECKING:
    from dd_core.distilled.sets import DistilledSet

_NAMED = 12  # classes named in the overview
_LETTERS = 40  # longest name in the one-line description
_ROWS, _CHARACTERS = 40, 200  # most rows of an HTML table, and most characters of a value
_SHEET = {"columns": 10, "lines": 1, "rows": 12, "side": 48, "largest": 64}  # at most 120 tiles of 64 pixels a side


def human_bytes(count: int) -> str:
    """A count of bytes with a binary prefix: `640 B`, `1.5 KiB`."""
    size = float(count)
    for prefix in ("", "Ki", "Mi", "Gi"):
        if size < 1024:
            return f"{size:.1f} {prefix}B" if prefix else f"{count} B"
        size /= 1024
    return f"{size:.1f} TiB"


def line_of(ds: DistilledSet) -> str:
    """One line: number, shape and dtype of images, number of classes, targets, method and source, bytes."""
    manifest = ds.manifest
    form = f"{' x '.join(map(str, ds.images.shape[1:]))} {ds.images.dtype.name}"
    facts = [f"{len(ds)} images {form}", f"{len(ds.classes)} classes" if ds.classes else "no classes"]
    if manifest.targets != "none":
        facts.append(f"targets: {manifest.targets}")
    if manifest.provenance is not None:
        facts.append(f"{_short(manifest.provenance.method)} of {_short(manifest.provenance.source)}")
    return f"DistilledSet({', '.join([*facts, human_bytes(ds.nbytes)])})"


def overview(ds: DistilledSet) -> dict[str, str]:
    """Facts about the set's images, by name; a fact without a value is left out."""
    manifest, whitening = ds.manifest, ds.whitening
    factor = manifest.formation
    tiles = f"{factor}: an image is {factor} x {factor} tiles, and networks see {ds.decoded_count} images"
    facts = {
        "images": f"{len(ds)} of {' x '.join(map(str, ds.images.shape[1:]))}, {ds.images.dtype.name}",
        "memory": human_bytes(ds.nbytes),
        "digest": ds.digest(),
        "task": manifest.task,
        "classes": _classes(ds.classes),
        "pixels": manifest.pixels.space,
        "formation": "" if factor == 1 else tiles,
        "mean": _numbers(manifest.pixels.mean),
        "std": _numbers(manifest.pixels.std),
        "whitening": "" if whitening is None else f"ZCA, {human_bytes(whitening.nbytes)} not counted as memory",
        "targets": manifest.targets,
        "attack": "" if manifest.attack is None else "'{}' is to be taken for '{}'".format(*manifest.attack),
    }
    return {name: value for name, value in facts.items() if value}


def recipe_of(ds: DistilledSet) -> dict[str, str]:
    """How networks train on the set, by the keys of the recipe."""
    return _flat(plain(ds.manifest.recipe))


def provenance_of(ds: DistilledSet) -> dict[str, str]:
    """Where the set came from, by the keys of the provenance; empty for a set that a program put together."""
    return {} if ds.manifest.provenance is None else _flat(plain(ds.manifest.provenance))


def html_of(ds: DistilledSet) -> str:
    """The first images of the first classes and the set's card, as self-contained HTML.

    Text is escaped, long values and tables are cut, and images are reduced, so that a set of any size gives less than
    3 MiB.
    """
    picture = base64.b64encode(png_bytes(contact_sheet(ds, **_SHEET))).decode()
    tables = {"recipe": recipe_of(ds), "provenance": provenance_of(ds)}
    folded = "".join(
        f"<details><summary>{name}</summary>{_table(facts)}</details>" for name, facts in tables.items() if facts
    )
    return (
        f"<div><p><code>{html.escape(line_of(ds))}</code></p>"
        f'<img alt="images of the set" style="max-width: 100%" src="data:image/png;base64,{picture}">'
        f"{_table(overview(ds))}{folded}</div>"
    )


def _table(facts: Mapping[str, str]) -> str:
    rows = [f"<tr><th>{_cell(name)}</th><td>{_cell(value)}</td></tr>" for name, value in [*facts.items()][:_ROWS]]
    if len(facts) > _ROWS:
        rows.append(f"<tr><th></th><td>and {len(facts) - _ROWS} more</td></tr>")
    return f'<table style="text-align: left">{"".join(rows)}</table>'


def _cell(text: str) -> str:
    return html.escape(text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 3]}...")


def _short(name: str) -> str:
    line = "".join(char if char.isprintable() else "?" for char in name)
    return line if len(line) <= _LETTERS else f"{line[: _LETTERS - 3]}..."


def _classes(classes: tuple[str, ...]) -> str:
    if not classes:
        return "none"
    named = ", ".join(classes[:_NAMED])
    return f"{len(classes)}: {named}{', ...' if len(classes) > _NAMED else ''}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _flat(value: object, name: str = "") -> dict[str, str]:
    """Nested values by keys such as `a.b`; None and empty lists are left out."""
    if isinstance(value, dict):
        pairs = [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        pairs = [(f"{name}.{index}", inner) for index, inner in enumerate(value)]
    elif value is None or value == []:
        return {}
    else:
        return {name: value if isinstance(value, str) else canonical(value)}
    return {key: leaf for inner_name, inner in pairs for key, leaf in _flat(inner, inner_name).items()}
