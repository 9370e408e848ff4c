"""Named ways to train on a set before it is scored. Imports no torch: the command line lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from dd_core.distilled import DistilledSet, Pixels
from dd_core.errors import UserError, unknown_name
from dd_core.recipe import Recipe

if TYPE_CHECKING:
    from dd_core.images import Source

_SGD = {"optimiser": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256}
_LONG = {"schedule": "step", "epochs": 1001, "augmentation": "auto", "steps": ()}
_DESCENT = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 10**9, "schedule": "constant"}

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of each channel
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# how the challenge's evaluator normalises its two data sets, by (classes, C, H, W)
CHALLENGE: Mapping[tuple[int, ...], Statistics] = {
    (100, 3, 32, 32): ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    (200, 3, 64, 64): IMAGENET,
}

PROTOCOLS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "recipe": ("the set's own recipe", {}),
    "plain-300": (
        "300 epochs, SGD 0.01/0.9/5e-4, batch 256, rate x0.1 after half, no augmentation",
        {**_SGD, "schedule": "step", "epochs": 300, "augmentation": "none", "steps": ()},
    ),
    "dm-1000": (
        "DM and DSA (Zhao and Bilen): 1001 epochs, SGD 0.01/0.9/5e-4, batch 256, rate x0.1 after half, DSA",
        {**_SGD, **_LONG},
    ),
    "mtt-1000": (
        "MTT (Cazenavette et al.): 1001 epochs, SGD 0.9/5e-4 at the set's own rate, batch 256, x0.1 after half, DSA",
        {**{key: _SGD[key] for key in _SGD if key != "learning_rate"}, **_LONG},
    ),
    "datm-soft": (
        "DATM (Guo et al. 2024): as mtt-1000 with batch 128, by the set's own soft labels where it has them",
        {**{key: _SGD[key] for key in _SGD if key != "learning_rate"}, **_LONG, "batch_size": 128},
    ),
    "challenge-2024": (
        "ECCV-2024 challenge: images only, labelled by their place, class after class; ConvNet-3, 1001 epochs, SGD "
        "0.01/0.9/5e-4, batch 256, x0.1 after half, DSA without aligned corners, no whitening",
        {
            **_SGD,
            **_LONG,
            "network": "convnet-3",
            "align_corners": False,
            "temperature": 1.0,
            "initialisation": "default",
            "weights": None,
        },
    ),
    "wang-grid": (
        "Wang et al. (2018): descent on the whole set at once; rate and steps chosen on a tenth of the training images",
        {**_DESCENT, "augmentation": "none", "steps": ()},
    ),
    "knn": (
        "Wang et al. (2018): nearest neighbours among the pixels; k and norm chosen on a tenth of the training images",
        {},
    ),
}

# What is chosen on validation images, for a set and for its twins each by itself. An epoch is one step on the whole
# set: 1, 3 and 5 of them are the paper's epochs, and 10, 30 and 50 the same with its ten steps in each.
GRIDS: Mapping[str, Mapping[str, Sequence[int | float]]] = {
    "wang-grid": {"learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), "epochs": (1, 3, 5, 10, 30, 50)},
    "knn": {"k": (1, 3, 5), "p": (1, 2)},
}


def recipe_of(protocol: str, own: Recipe, *, source_name: str) -> Recipe:
    """The recipe that `protocol` makes of a set's own.

    Raises `UserError` for an unknown name, and for a set for one network where the protocol has a network of its own.
    """
    check_protocol(protocol)
    recipe = own.model_copy(update=PROTOCOLS[protocol][1]).for_source(source_name)
    if own.for_one_network and not recipe.for_one_network:
        raise UserError(f"protocol '{protocol}' trains a {recipe.network}, and this set is for one {own.network} only")
    return recipe


def seen_by(protocol: str, ds: DistilledSet, train: Source) -> DistilledSet:
    """What `protocol` takes of a set: all, or for the challenge its images alone, which it labels by their place.

    They get there normalised: of the challenge's two data sets by its own statistics, else by the set's, or by those of
    `train` where the set is whitened. Raises `UserError` for a set whose own hard labels are others.
    """
    if protocol != "challenge-2024":
        return ds
    classes, manifest = len(ds.classes), ds.manifest.model_copy(update={"targets": "none"})
    if ds.labels is None or not np.array_equal(ds.labels, np.arange(len(ds)) * classes // len(ds)):
        raise UserError("the challenge labels images by their place, class after class; this set is in another order")
    statistics = CHALLENGE.get((classes, *ds.images.shape[1:]))
    if statistics is None and ds.whitening is None:
        return replace(ds, targets=None, manifest=manifest)
    if statistics is None:
        from dd_core.images import channel_stats

        statistics = channel_stats(train)
    mean, std = (np.asarray(values, dtype=np.float32).reshape(-1, 1, 1) for values in statistics)
    pixels = Pixels(space="normalised", mean=statistics[0], std=statistics[1])
    return DistilledSet((ds.raw() - mean) / std, ds.labels, manifest.model_copy(update={"pixels": pixels}))


def settings_of(protocol: str, *, images: int) -> list[dict[str, Any]]:
    """Every setting that `protocol` chooses from for a set of so many images, or none where it leaves no choice."""
    grid = GRIDS.get(protocol, {})
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return [point for point in points if point and point.get("k", 1) <= images]


def check_protocol(protocol: str, networks: Sequence[str] = (), *, start: bool = False) -> None:
    """Raise `UserError` for an unknown name, and for networks, or a start, given with a protocol that trains none."""
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if protocol == "knn" and networks:
        raise UserError(f"protocol 'knn' trains no network, and '{networks[0]}' is given")
    if protocol == "knn" and start:
        raise UserError("protocol 'knn' trains no network, so none starts anywhere")
