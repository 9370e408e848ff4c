"""`export` and `import`: distilled sets in the file formats of other people's code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dd_apps.cli import options
from dd_apps.cli.terminal import Answer, Page, as_argument, shell_line
from dd_apps.scenario import assign
from dd_core import datasets, exchange, store
from dd_core.config import decode, plain
from dd_core.distilled import DistilledSet, Pixels
from dd_core.distilled.card import human_bytes
from dd_core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dd_core.exchange import MttFiles

_NAMED_FILES = 5

To = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help="challenge, mtt (for DATM too), sre2l, krr-st or png.")
]
From = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help="mtt, datm (labels are logits), challenge, sre2l or krr-st.")
]
OutFolder = Annotated[Path, typer.Option(metavar="PATH", help="Folder for the files.")]
OutFile = Annotated[Path, typer.Option(metavar="FILE.safetensors", help="File of the distilled set to be written.")]
Replace = Annotated[bool, typer.Option("--fresh", help="Replace files that are there and differ.")]
Found = Annotated[
    Path | None, typer.Argument(metavar="PATH", help="Folder of the set's files; for challenge, the one file.")
]
Images = Annotated[
    Path | None, typer.Option("--images", metavar="FILE.pt", help="File of the images, instead of PATH; mtt and datm.")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", metavar="FILE.pt", help="File of the labels, or logits, of --images.")
]
Rate = Annotated[
    Path | None, typer.Option("--lr", metavar="FILE.pt", help="File of the learned learning rate of --images.")
]
OfData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|folder:PATH",
        help="Data set whose class names are taken as the set's; none of its images is read.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="A,B,C|FILE",
        help="Names of the set's classes in the order of its labels, instead of --data's; FILE has one name a line.",
    ),
]
Override = Annotated[
    bool,
    typer.Option(
        "--override",
        help="Take class names, mean and std from the options where normalisation.json, beside the files, says others; "
        "without --override such an import is refused.",
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="NAME",
        help="Mean and std that the pixels were normalised with: "
        + "; ".join(f"{name} ({statistics.meaning})" for name, statistics in exchange.STATISTICS.items())
        + ".",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", metavar="M,...", help="Mean of each channel, of pixels in [0, 1], instead of --like."),
]
Std = Annotated[
    str | None, typer.Option("--std", metavar="S,...", help="Standard deviation of each channel; goes with --mean.")
]
Space = Annotated[
    str,
    typer.Option(
        help="What the files' pixels are: normalised, or raw (in [0, 1], normalised before use). ZCA-whitened pixels, "
        "as in most published runs of MTT and DATM, cannot be imported."
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="recipe.KEY=VALUE",
        default_factory=list,
        show_default=False,
        help="Change a value of the set's recipe; may be repeated.",
    ),
]


def export(
    file: options.SetFile, *, form: To, out: OutFolder, fresh: Replace = False, as_json: options.Json = False
) -> Answer:
    """Write a distilled set as files that other people's code reads.

    The answer lists what the format cannot hold.
    """
    if form not in exchange.EXPORTS:
        raise unknown_name("format", form, exchange.EXPORTS)
    ds = store.read_set(file)
    made = exchange.EXPORTS[form](ds, out)
    made.write(fresh=fresh)
    fields = {
        "path": str(out),
        "format": form,
        "files": list(made.files),
        "images": len(ds),
        "classes": len(ds.classes),
        "lost": list(made.lost),
    }
    return Answer(fields, lambda page: _show_export(page, fields))


def _show_export(page: Page, fields: dict[str, Any]) -> None:
    names = fields["files"]
    more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
    what = f" of {fields['classes']} classes" if fields["classes"] else ""
    page.line(f"{fields['path']}: {fields['images']} images{what}")
    page.line(f"files: {', '.join(names[:_NAMED_FILES])}{more}")
    for what in fields["lost"]:
        page.line(f"does not travel: {what}")


def import_(
    path: Found = None,
    *,
    form: From,
    out: OutFile,
    settings: Settings,
    images: Images = None,
    labels: Labels = None,
    rate: Rate = None,
    data: OfData = None,
    classes: Classes = None,
    like: Like = None,
    mean: Mean = None,
    std: Std = None,
    space: Space = "normalised",
    override: Override = False,
    fresh: Replace = False,
    as_json: options.Json = False,
) -> Answer:
    """Make a distilled set from files that other people's code wrote.

    Options have to name the classes, mean and std that the files do not hold.
    """
    if form not in exchange.IMPORTS:
        raise unknown_name("format", form, exchange.IMPORTS)
    from dd_core.runner.folder import check_out  # imports torch

    check_out(out)
    recipe = _recipe_table(settings)
    pixels = _pixels(like, mean, std, space)
    if form == "challenge":
        if path is None or images or labels or rate or pixels or override:
            raise UserError(
                "a submission is one file with its own mean and std: give its PATH, --data or --classes, and no more"
            )
        if data is None and classes is None:
            raise UserError(f"{path}: has no class names; give --data NAME to take that data set's, or --classes a,b,c")
        ds = exchange.import_challenge(path, classes=_classes(data, classes) or (), recipe=recipe)
    elif form == "sre2l":
        if path is None or images or labels or rate or override:
            raise UserError("SRe2L's layout is a folder of class folders: give its PATH, without --images and --labels")
        if pixels is None or (data is None and classes is None):
            raise UserError(
                f"{path}: has neither class names nor mean and std; give --data NAME or --classes a,b,c, "
                "and --like NAME or --mean and --std"
            )
        named = _classes(data, classes) or ()
        ds = exchange.import_sre2l(path, pixels=pixels, classes=named, recipe=recipe, source=data or "")
    elif form == "krr-st":
        if path is None or images or labels or rate or classes or override:
            raise UserError(
                "KRR-ST's sets are folders with x_syn.pt and y_syn.pt: give the PATH of one, and no classes"
            )
        ds = exchange.import_krr_st(path, pixels=pixels, recipe=recipe, source=data or "")
    else:
        ds = exchange.import_mtt(
            _files(path, images, labels, rate),
            pixels=pixels,
            classes=_classes(data, classes),
            override=override,
            soft=form == "datm",
            source=data or "",
            recipe=recipe,
        )
    exchange.write_files({out: store.set_bytes(ds)}, fresh=fresh)
    fields = {
        "path": str(out),
        "sha256": store.file_sha256(out),
        "images": len(ds),
        "classes": len(ds.classes),
        "manifest": plain(ds.manifest),
    }
    return Answer(fields, lambda page: _show_import(page, ds, fields, data))


def _recipe_table(settings: list[str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for setting in settings:
        if not setting.startswith("recipe."):
            raise UserError(f"--set {setting}: expected a key of the recipe, as in --set recipe.epochs=300")
        assign(table, setting)
    return table.get("recipe", {})


def _files(path: Path | None, images: Path | None, labels: Path | None, rate: Path | None) -> MttFiles:
    """The files in the folder `path`, or the files that the options name one by one."""
    if path is None and images is not None and labels is not None:
        beside = images.with_name(exchange.SIDECAR)
        return exchange.MttFiles(images, labels, rate, beside if beside.exists() else None)
    if path is None or images is not None or labels is not None or rate is not None:
        raise UserError("which files? Give the PATH of their folder, or --images and --labels (and --lr), not both")
    return exchange.MttFiles.of(path)


def _classes(data: str | None, given: str | None) -> tuple[str, ...] | None:
    """The class names from `--classes` (names or a file), else those of the data set `--data`; None without both."""
    if data is not None:
        datasets.check_name(data)
    if given is None:
        return None if data is None else datasets.class_names(data)
    expected = "expected names with commas between them, or a file with a name a line"
    if "," in given:
        names = given.split(",")
    else:
        try:
            names = exchange.read_bytes(Path(given), store.SET.header_bytes).decode("utf-8-sig").rstrip().split("\n")
        except UserError as error:
            raise UserError(f"--classes {error.text}; {expected}") from None
        except UnicodeDecodeError:
            raise UserError(f"--classes {given}: is no UTF-8 text; {expected}") from None
    stripped = tuple(name.strip() for name in names)
    if len(stripped) < 2 or not all(stripped):
        raise UserError(f"--classes {given}: {expected}")
    return stripped


def _pixels(like: str | None, mean: str | None, std: str | None, space: str) -> Pixels | None:
    if space == "whitened":
        raise UserError(
            "--space whitened: ZCA-whitened images cannot be imported, since no file holds the whitening matrix; MTT's "
            "images_zca_*.pt are the same images unwhitened: --images images_zca_best.pt --space raw"
        )
    if space not in ("raw", "normalised"):
        raise unknown_name("space", space, ("raw", "normalised"))
    if (mean is None) != (std is None) or (like is not None and mean is not None):
        raise UserError("give --like NAME, or --mean and --std together")
    if like is not None:
        return exchange.pixels_like(like, space="raw" if space == "raw" else "normalised")
    if mean is None or std is None:
        if space == "raw":
            raise UserError("--space raw: say by what to normalise before use: --like NAME, or --mean and --std")
        return None
    stated = {"space": space, "mean": _numbers("--mean", mean), "std": _numbers("--std", std)}
    return decode(Pixels, stated, where="--mean and --std")


def _numbers(option: str, text: str) -> Sequence[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: expected numbers with commas between them, one a channel") from None


def _show_import(page: Page, ds: DistilledSet, fields: dict[str, Any], data: str | None) -> None:
    what = f"of {len(ds.classes)} classes" if ds.classes else f"with {ds.manifest.targets}, without labels"
    page.line(f"{fields['path']}: {len(ds)} images {what}, {human_bytes(ds.nbytes)}")
    file = as_argument(Path(fields["path"]))
    after = [["dd-apps", "inspect", file, "--png", "images.png"]]
    if ds.labels is not None:
        after.append(["dd-apps", "evaluate", file, "--data", data or "NAME"])
    page.facts(
        {
            "sha256": fields["sha256"],
            "recipe": f"{ds.manifest.recipe.network}, learning rate {ds.manifest.recipe.learning_rate:g}",
            "next": "; ".join(map(shell_line, after)),
        }
    )
