"""The proxies of `nb201.py`, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nb201_images import set_file
from pydantic import TypeAdapter

from dd_apps.nas import measures
from dd_apps.nas.proxies.config import ProxyConfig

PASSES = 3000
METHODS, SIZES = ("dm", "mtt", "ftd"), (1, 10)
# Ways to train for the same image-passes: mini-batches of ten are ten times as many steps.
VARIANTS: dict[str, dict[str, Any]] = {
    "own recipe": {},
    "batch 10": {"batch_size": 10},
    "batch 10, rate 0.05": {"batch_size": 10, "learning_rate": 0.05, "schedule": "cosine", "augmentation": "none"},
}
_decoded = TypeAdapter[ProxyConfig](ProxyConfig).validate_python


def free(names: Iterable[str] = measures.names()) -> list[ProxyConfig]:
    """The zero-cost measures."""
    return [_decoded({"kind": "zero-cost", "measure": name}) for name in names]


def trained(
    sets: Path, *, sizes: Iterable[int] = SIZES, passes: int | None = PASSES, recipe: dict[str, Any] | None = None
) -> list[ProxyConfig]:
    """Distilled sets, as many random real images, and the beginning of training on all, by accuracy and by loss."""
    changes = recipe or {}
    proxies: list[dict[str, Any]] = []
    for ipc in sizes:
        like = str(set_file(sets, "dm", ipc))
        proxies += [
            {"kind": "distilled", "set": str(set_file(sets, method, ipc)), "passes": passes, "name": f"{method}-{ipc}"}
            for method in METHODS
        ]
        proxies.append({"kind": "random", "like": like, "passes": passes, "name": f"random-{ipc}"})
    if passes is not None:
        like = str(set_file(sets, "dm", 10))
        proxies.append({"kind": "early-stopping", "like": like, "passes": passes, "name": "early stopping"})
    return [
        _decoded({"recipe": changes, **proxy, "by": by, "name": f"{proxy['name']}, {by}"})
        for proxy in proxies
        for by in ("accuracy", "loss")
    ]


def varied(sets: Path, name: str) -> list[ProxyConfig]:
    """A variant of the proxy that trains on ten images a class by `dm`, and of its twin."""
    proxies = trained(sets, sizes=[10], recipe=VARIANTS[name])
    return [proxy for proxy in proxies if proxy.called.partition(",")[0] in ("dm-10", "random-10")]
