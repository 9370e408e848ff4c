"""`inspect` and `verify`: what is in a file, without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dd_apps.cli.options import Json, SetFile, as_flag
from dd_apps.cli.terminal import Answer, Page, Session
from dd_apps.report.tables import human_bytes
from dd_core import store
from dd_core.config import canonical, plain
from dd_core.distilled import DistilledSet
from dd_core.errors import DDError, UserError

_NAMED = 12  # classes named in the overview

Png = Annotated[Path | None, typer.Option("--png", metavar="OUT.png", help="Draw the images, a row for each class.")]


Gif = Annotated[
    Path | None,
    typer.Option(
        "--animate",
        metavar="OUT.gif",
        help="Draw how images were recovered; method sre2l keeps that with --set recover.snapshots=20.",
    ),
]


def inspect(file: SetFile, *, png: Png = None, animate: Gif = None, as_json: Json = False) -> Answer:
    """Show the manifest of a distilled set, and draw its images."""
    for name, path, suffix in (("--png", png, ".png"), ("--animate", animate, ".gif")):
        if path is not None and path.suffix.lower() != suffix:
            raise UserError(f"{name} {path}: expected a name that ends in {suffix}")
    ds = store.read_set(file)
    if animate is not None:
        _animate(ds, animate)
    if png is not None:
        from dd_core.distilled.pictures import contact_sheet, png_bytes

        store.write_bytes(png, png_bytes(contact_sheet(ds)))
    drawn = {"png": str(png) if png else None, **({"gif": str(animate)} if animate else {})}
    fields = {"path": str(file), **_overview(ds), "manifest": plain(ds.manifest), **drawn}
    return Answer(fields, lambda page: _show(page, ds, file=file, drawn=[path for path in (png, animate) if path]))


def _animate(ds: DistilledSet, out: Path) -> None:
    """Draw the images of a set on their way; raises what `sre2l.way_of` raises."""
    from dd_core.distilled.pictures import contact_sheet, gif_bytes
    from dd_core.methods import sre2l

    sheets = [contact_sheet(replace(ds, images=images)) for images in sre2l.way_of(ds)]
    store.write_bytes(out, gif_bytes(sheets))


def verify(context: typer.Context, file: SetFile, *, as_json: Json = False) -> Answer:
    """Recompute every checksum of a distilled set."""
    session: Session = context.obj
    try:
        ds = store.read_set(file)
    except DDError as error:
        if not session.json:
            raise
        failed = {"ok": False, "error": error.spelled(as_flag), "exit_code": error.exit_code}
        return Answer(failed, lambda page: None, exit_code=error.exit_code)
    sha256 = store.file_sha256(file)
    fields = {"ok": True, "path": str(file), "sha256": sha256, **_overview(ds)}
    return Answer(fields, lambda page: page.line(f"{file}: ok, {len(ds)} images, sha256 {sha256}"))


def _overview(ds: DistilledSet) -> dict[str, Any]:
    return {
        "images": len(ds),
        **({} if ds.manifest.formation == 1 else {"decoded_images": ds.decoded_count}),
        "digest": ds.digest(),
        "image_shape": list(ds.images.shape[1:]),
        "dtype": ds.images.dtype.name,
        "bytes": ds.nbytes,
        "whitening_bytes": 0 if ds.whitening is None else ds.whitening.nbytes,
    }


def _show(page: Page, ds: DistilledSet, *, file: Path, drawn: list[Path]) -> None:
    manifest = ds.manifest
    page.line(str(file), style="bold")
    page.facts(
        {
            "images": f"{len(ds)} of {' x '.join(map(str, ds.images.shape[1:]))}, {ds.images.dtype.name}",
            "memory": human_bytes(ds.nbytes),
            "digest": ds.digest(),
            "task": manifest.task,
            "classes": _classes(ds.classes),
            "pixels": manifest.pixels.space,
            **_formation(ds),
            "mean": _numbers(manifest.pixels.mean),
            "std": _numbers(manifest.pixels.std),
            **(
                {}
                if ds.whitening is None
                else {"whitening": f"ZCA, {human_bytes(ds.whitening.nbytes)} not counted as memory"}
            ),
            "targets": manifest.targets,
            **({} if manifest.attack is None else {"attack": "'{}' is to be taken for '{}'".format(*manifest.attack)}),
        }
    )
    page.line()
    page.line("recipe", style="bold")
    page.facts(_flat(plain(manifest.recipe)))
    page.line()
    page.line("provenance", style="bold")
    if manifest.provenance is None:
        page.line("none: this set was put together by a program, not made by a run")
    else:
        page.facts(_flat(plain(manifest.provenance)))
    if drawn:
        page.line()
        page.line(f"images drawn in {' and '.join(map(str, drawn))}")


def _formation(ds: DistilledSet) -> dict[str, str]:
    if (factor := ds.manifest.formation) == 1:
        return {}
    return {"formation": f"{factor}: an image is {factor} x {factor} tiles, and networks see {ds.decoded_count} images"}


def _classes(classes: tuple[str, ...]) -> str:
    if not classes:
        return "none"
    named = ", ".join(classes[:_NAMED])
    return f"{len(classes)}: {named}{', ...' if len(classes) > _NAMED else ''}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _flat(value: object, name: str = "") -> dict[str, object]:
    """Nested values as `a.b` keys; what is not given is left out."""
    if isinstance(value, dict):
        pairs = [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        pairs = [(f"{name}.{index}", inner) for index, inner in enumerate(value)]
    elif value is None or value == []:
        return {}
    else:
        return {name: value if isinstance(value, str) else canonical(value)}
    return {key: leaf for inner_name, inner in pairs for key, leaf in _flat(inner, inner_name).items()}
