"""What is looked at before any network is trained: does all that is given fit together, and into memory?"""

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


def check_match(ds: DistilledSet, train: Source, test: Source) -> None:
    """Raise `UserError` for a set without classes, and where the real images are of other classes or another shape."""
    if ds.manifest.task != "classification":
        raise UserError(
            f"a {ds.manifest.task} set with targets '{ds.manifest.targets}' trains no classifier that could be scored; "
            "pre-train a backbone on it, and probe that"
        )
    for source in (train, test):
        if source.classes != ds.classes:
            raise UserError(
                f"the set has the classes {_some(ds.classes)}, and {source.name} has {_some(source.classes)}"
            )
        if source.image_shape != ds.images.shape[1:]:
            theirs, ours = "x".join(map(str, source.image_shape)), "x".join(map(str, ds.images.shape[1:]))
            raise UserError(f"the set has {ours} images (C x H x W), and {source.name} has {theirs}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def attacked(ds: DistilledSet) -> tuple[int, int] | None:
    """The classes of an attack as labels: the attacked one, and the one that it is to be taken for."""
    attack = ds.manifest.attack
    return None if attack is None else (ds.classes.index(attack[0]), ds.classes.index(attack[1]))


def check_attack(ds: DistilledSet, test: Source, protocol: EvaluationProtocol, *, chooses: bool) -> None:
    """Raise `UserError` where a set for an attack cannot be scored."""
    attack = attacked(ds)
    if attack is not None and chooses:
        raise UserError(
            f"protocol '{protocol.name}' chooses what is right, and the set is for an attack; use another protocol"
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
    """One line where memory will be short for `nets` networks on the set, and as many on twins of their own; else None.

    tested: how many test images each network is tested on; own: a caller's network in place of the recipe's.
    """
    channels, height, width = ds.images.shape[1:]
    need = estimates.evaluation(
        recipe,
        (channels, height, width),
        len(ds.classes),
        images=ds.decoded_count,
        tested=tested,
        sets=nets + 1,
        jobs=min(workers.count, 2 * nets),
        device=device,
        own=own,
    )
    return shortage(need, device)
