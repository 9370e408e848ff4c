"""Checks before any network is trained: whether set, images and protocol fit together, and fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.evaluation.protocol import EvaluationProtocol
from dd_core.images import Source, require_labels
from dd_core.networks.own import Network
from dd_core.recipe import Recipe
from dd_core.system.footprint import shortage
from dd_core.system.parallel import Workers
from dd_core.training import estimates

_TWINS_A_WORKER = 5  # one that its network trains on, and two that wait, each also as bytes on their way


def check_match(ds: DistilledSet, train: Source, test: Source) -> None:
    """Raise `UserError` for a set without classes, and for real images with other classes or of another shape."""
    if ds.manifest.task != "classification":
        raise UserError(
            f"a {ds.manifest.task} set with targets '{ds.manifest.targets}' trains no classifier that could be scored; "
            "pre-train a backbone on the set, and score it by a linear probe"
        )
    for source in (train, test):
        if source.classes != ds.classes:
            raise UserError(
                f"the set has the classes {_some(ds.classes)}, and {source.name} has {_some(source.classes)}; give "
                "images with the set's classes, in the set's order"
            )
        if source.image_shape != ds.images.shape[1:]:
            theirs, ours = "x".join(map(str, source.image_shape)), "x".join(map(str, ds.images.shape[1:]))
            raise UserError(f"the set has {ours} images (C x H x W), and {source.name} has {theirs}; give images alike")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def attacked(ds: DistilledSet) -> tuple[int, int] | None:
    """The labels of an attack: that of the attacked class, and that which networks should give it; None: no attack."""
    attack = ds.manifest.attack
    return None if attack is None else (ds.classes.index(attack[0]), ds.classes.index(attack[1]))


def check_attack(ds: DistilledSet, test: Source, protocol: EvaluationProtocol, *, chooses: bool) -> None:
    """Raise `UserError` for a set for an attack whose class has no test images, or where the protocol `chooses`."""
    attack = attacked(ds)
    if attack is not None and chooses:
        raise UserError(
            f"protocol '{protocol.name}' chooses settings by accuracy, which an attack lowers; use another protocol"
        )
    if attack is not None and attack[0] not in require_labels(test):
        raise UserError(f"the set attacks class '{ds.classes[attack[0]]}', of which {test.name} has no test image")


def memory_shortage(
    ds: DistilledSet,
    recipe: Recipe,
    *,
    tested: int,
    nets: int,
    workers: Workers,
    device: torch.device,
    own: Network | None = None,
) -> str | None:
    """One line that warns of too little memory for `nets` networks on the set and `nets` on twins; None: enough.

    tested: how many images each network is tested on; own: a caller's network instead of the recipe's.
    """
    channels, height, width = ds.images.shape[1:]
    need = estimates.evaluation(
        recipe,
        (channels, height, width),
        len(ds.classes),
        images=ds.decoded_count,
        tested=tested,
        sets=1 + min(nets, 2 if workers.count == 1 else _TWINS_A_WORKER * workers.count),
        jobs=min(workers.count, 2 * nets),
        device=device,
        own=own,
    )
    return shortage(need, device)
