"""Settings of methods that suit one kind of images, by the size of the images.

Options that a preset leaves out keep the method's defaults, and options that a user gives override the preset:

    distill(method("dm", **preset("photos", "dm", image_size=64)), images, 10)

`photos` is for colour photographs of up to 256 pixels a side, and for a laptop: the literature's ConvNet for the image
size, narrower than in the papers, fewer outer iterations, and fewer real images in each iteration. `runner.forecast`
says how long a run takes. The papers' own settings are for a GPU; `dd-apps list scenarios` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dd_core.errors import UserError, unknown_name

Settings = Mapping[str, Any]
By = tuple[Settings, Settings, Settings, Settings]  # for each of SIDES

PRESETS = {"photos": "photographs of up to 256 px, minutes on a laptop's CPU"}
SIDES = (32, 64, 128, 256)  # the largest image side, in pixels, that each column of a method is for

WIDTHS = ("convnet-w64", "convnet-w32", "convnet-w32", "convnet-w16")
EPOCHS = (500, 300, 200, 150)  # passes over the set of the networks that learn from it, for each of SIDES

DM: By = (
    {"steps": 500, "batch_real": 64},
    {"steps": 400, "batch_real": 32},
    {"steps": 300, "batch_real": 16},
    {"steps": 200, "batch_real": 16},
)
# Above 32 px the learner has norms and more layers. At 128 px sets for the method's own network, one layer without a
# norm, taught networks nothing; nor do those of NARROW, see `remark`.
NORMED: Settings = {"lr_inner": 0.1, "recipe": {"network": "convnet-w32", "initialisation": "default"}}
NARROW: Settings = {**NORMED, "lr_img": 0.1, "recipe": {"network": "convnet-w16", "initialisation": "default"}}
DATASET_DISTILLATION: By = (
    {"steps": 300, "batch_real": 256},
    {"steps": 200, "batch_real": 128, **NORMED},
    {"steps": 150, "epochs": 5, "batch_real": 64, **NARROW},
    {"steps": 80, "epochs": 3, "batch_real": 32, **NARROW},
)
EXPERTS = {"last_epoch": 5, "training": {"epochs": 7, "batch_size": 64}}
MTT: By = (
    {"steps": 200, "syn_steps": 10, "experts": 3, **EXPERTS},
    {"steps": 150, "syn_steps": 10, "experts": 2, **EXPERTS},
    {"steps": 100, "syn_steps": 8, "experts": 2, **EXPERTS},
    {"steps": 60, "syn_steps": 8, "experts": 1, **EXPERTS},
)
NONE: By = ({}, {}, {}, {})

PHOTOS: Mapping[str, By] = {
    "average": NONE,
    "dataset-distillation": DATASET_DISTILLATION,
    "dm": DM,
    "ftd": MTT,
    "herding": NONE,
    "k-means": NONE,
    "mtt": MTT,
    "random": NONE,
    "tesla": MTT,
}


def preset(name: str, method: str, *, image_size: int) -> dict[str, Any]:
    """The options of `method` by the preset `name` for images of `image_size` pixels a side, as a table.

    Raises `UserError` for an unknown preset, and for a method or an image size that the preset has no settings for. For
    settings whose sets taught networks nothing when they were measured, `remark` has a line of warning.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    if method not in PHOTOS:
        raise UserError(
            f"preset '{name}' has no settings for the method '{method}'; it has settings for "
            f"{', '.join(sorted(PHOTOS))}"
        )
    column = next((index for index, side in enumerate(SIDES) if image_size <= side), None)
    if column is None:
        raise UserError(
            f"preset '{name}' is for images of up to {SIDES[-1]} pixels a side, and these have {image_size}; "
            "make them smaller, or leave out the preset"
        )
    settings = dict(PHOTOS[method][column])
    if method == "dataset-distillation":  # its learned steps replace epochs, and it has a network of its own
        return settings
    return {**settings, "recipe": {"network": WIDTHS[column], "epochs": EPOCHS[column]}}


def remark(method: str, *, image_size: int) -> str | None:
    """A line of warning where measured sets by the preset taught networks nothing (`make bench-photo-presets`)."""
    if method == "dataset-distillation" and image_size > SIDES[1]:
        return (
            f"sets of dataset-distillation by this preset taught networks nothing at {SIDES[2]} px (they were right as "
            f"often as by chance), and larger images were not measured; give images of up to {SIDES[1]} px, or take dm"
        )
    return None


def completed(table: Settings, settings: Settings) -> dict[str, Any]:
    """A method's table, with keys that it lacks, in nested tables too, taken from `settings`."""
    both = {key: completed(table[key], settings[key]) for key in table if _tables(table[key], settings.get(key))}
    return {**settings, **table, **both}


def _tables(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)
