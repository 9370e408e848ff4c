"""`inspect` and `verify`: show and check a distilled set's file, without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dd_apps.cli.options import Json, SetFile, as_flag
from dd_apps.cli.terminal import Answer, Page, Session
from dd_core import store
from dd_core.config import plain
from dd_core.distilled import DistilledSet, card
from dd_core.errors import DDError, UserError

Png = Annotated[Path | None, typer.Option("--png", metavar="OUT.png", help="Draw the images, a row for each class.")]


Gif = Annotated[
    Path | None,
    typer.Option(
        "--animate",
        metavar="OUT.gif",
        help="Draw the recovery of images; needs a set of sre2l made with --set recover.snapshots=20 or the like.",
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
    """Draw the kept snapshots of a set's recovery as a GIF; raises what `sre2l.way_of` raises."""
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
    page.line(str(file), style="bold")
    page.facts(card.overview(ds))
    page.line()
    page.line("recipe", style="bold")
    page.facts(card.recipe_of(ds))
    page.line()
    page.line("provenance", style="bold")
    if ds.manifest.provenance is None:
        page.line("none: this set was put together by a program, not made by a run")
    else:
        page.facts(card.provenance_of(ds))
    if drawn:
        page.line()
        page.line(f"images drawn in {' and '.join(map(str, drawn))}")
