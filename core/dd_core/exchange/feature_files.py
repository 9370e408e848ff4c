"""The files of KRR-ST's scripts (Lee et al. 2024): images and target features, one tensor a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dd_core.config import plain
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import Option, UserError
from dd_core.exchange.formats import Export, as_seen, changed_recipe, losses_of_all
from dd_core.exchange.mtt_files import SIDECAR, Sidecar, read_sidecar
from dd_core.exchange.torch_tensors import read_tensor, tensor_bytes
from dd_core.methods.krr_st.config import PRETRAINED_ON
from dd_core.system import surroundings

INPUTS, FEATURES = "x_syn.pt", "y_syn.pt"


@surroundings.own()
def export_krr_st(ds: DistilledSet, folder: Path) -> Export:
    """`x_syn.pt` (the inputs of a backbone) and `y_syn.pt` (the features that it learns of them); both float32.

    `normalisation.json` beside them says how the inputs are normalised. Raises `UserError` for a set without features.
    """
    ds, small = as_seen(ds)
    if ds.targets is None or ds.manifest.targets != "features":
        raise UserError(f"format 'krr-st' is for sets with features, and this one has targets '{ds.manifest.targets}'")
    pixels = ds.manifest.pixels
    whitened = ds.whitening is not None
    space = "whitened" if whitened else "normalised"
    sidecar = Sidecar(space=space, mean=pixels.mean, std=pixels.std, classes=ds.classes)
    files = {
        INPUTS: tensor_bytes(ds.inputs().numpy()),
        FEATURES: tensor_bytes(ds.targets.astype(np.float32)),
        SIDECAR: (json.dumps(plain(sidecar), indent=2) + "\n").encode(),
    }
    lost = [] if ds.labels is None else [f"the labels of {len(ds)} images"]
    lost += ["the whitening: the images are whitened, and the matrix is in none of these files"] if whitened else []
    lost.append("the recipe: KRR-ST's scripts pre-train in their own way")
    return Export(folder, files, (*small, *lost, *losses_of_all(ds)))


@surroundings.own()
def import_krr_st(
    folder: Path, *, pixels: Pixels | None = None, source: str = "", recipe: Mapping[str, Any] | None = None
) -> DistilledSet:
    """The set in a folder with `x_syn.pt` and `y_syn.pt`; `pixels`, or else `normalisation.json`, give mean and std.

    The recipe is the paper's, with the values of `recipe` in place of its own. Raises `UserError` where neither gives
    mean and std, and for files that do not hold float32 tensors (N, C, H, W) and (N, D).
    """
    if not os.path.isdir(folder):  # unlike Path.is_dir it takes a name of any length
        raise UserError(f"{folder}: not a folder with {INPUTS} and {FEATURES}")
    if pixels is None:
        pixels = _pixels_beside(folder)
    images = read_tensor(folder / INPUTS, "float32", dims=4)
    features = read_tensor(folder / FEATURES, "float32", dims=2)
    manifest = Manifest(
        task="self-supervised",
        classes=(),
        pixels=pixels,
        targets="features",
        recipe=changed_recipe(PRETRAINED_ON, recipe or {}, source),
    )
    try:
        return DistilledSet(images, None, manifest, features)
    except UserError as error:
        raise UserError(f"{folder}: {error.text}") from None


def _pixels_beside(folder: Path) -> Pixels:
    if not (folder / SIDECAR).exists():
        raise UserError(
            f"{folder}: does not say how real images are normalised, without {SIDECAR}; give {Option('mean')} and "
            f"{Option('std')}, or {Option('like', 'NAME')}"
        )
    sidecar = read_sidecar(folder / SIDECAR)
    if sidecar.space == "whitened":
        raise UserError(f"{folder / SIDECAR}: the images are whitened (ZCA), and the matrix is in none of the files")
    return Pixels(space=sidecar.space, mean=sidecar.mean, std=sidecar.std)
