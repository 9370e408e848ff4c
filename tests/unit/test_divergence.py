"""A finite loss with a gradient that is not: the run stops before the update, and no checkpoint holds such a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dd_core import networks, store, unroll
from dd_core.distilled import Size
from dd_core.errors import Diverged
from dd_core.methods import method
from dd_core.runner import RunOptions, Silent, distill
from dd_core.testing import blobs

SMALL = {"steps": 5, "recipe": {"network": "convnet-2-w8"}}
PLAIN = {"augmentation": "none", "batch_real": 8}  # a transform may cut off the pixel whose gradient is spoiled
UNROLLED = {**SMALL, "gradient": "full"}
MATCHED = {**UNROLLED, "syn_steps": 2, "experts": 1, "last_epoch": 2, "expert_epochs": 1}
SOFT = {**MATCHED, "range_start": 1, "threshold": None, "training": {"epochs": 3}}
METHODS: dict[str, dict[str, Any]] = {
    "dm": {**SMALL, **PLAIN},
    "dataset-distillation": {**UNROLLED, "epochs": 2, "batch_real": 16},
    "datm": SOFT,
    "mtt": {**MATCHED, **PLAIN, "also": "features"},
}


class After(Silent):
    """Spoils gradients from step 2 on."""

    reached = False
    steps = 0

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        self.steps += metrics is not None  # a part of an artefact has no metrics, and is no step
        self.reached = self.steps >= 2


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def spoil(monkeypatch: pytest.MonkeyPatch, after: After, position: int | None, value: float) -> None:
    """Let one number of a gradient be `value`, the loss being what it is.

    Of unrolled steps, `position` is that of the learned tensor: pixels, rates, labels. Of a distance of features it is
    the pixels' gradient.
    """
    embed, unrolled = networks.embed, unroll.unroll

    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[0] = value
        return gradient

    def embedded(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        if after.reached and images.requires_grad:
            images.register_hook(spoiled)
        return embed(network, images)

    def with_gradients(*arguments: Any, **options: Any) -> unroll.Unrolled:
        result = unrolled(*arguments, **options)
        if not after.reached:
            return result
        learned = [spoiled(one) if place == position else one for place, one in enumerate(result.learned)]
        return replace(result, learned=tuple(learned))

    monkeypatch.setattr(networks, "embed", embedded)
    monkeypatch.setattr(unroll, "unroll", with_gradients)


def values_of(state: Any) -> list[torch.Tensor]:
    """All tensors of a state."""
    if isinstance(state, torch.Tensor):
        return [state]
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for value in inner for tensor in values_of(value)]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("name", "position", "what"),
    [
        ("dm", 0, "gradient"),
        ("dataset-distillation", 0, "gradient"),
        ("dataset-distillation", 1, "gradient of rates"),
        ("datm", 0, "gradient"),
        ("datm", 1, "gradient of the rate"),
        ("datm", 2, "gradient of the labels"),
        ("mtt", None, "gradient"),  # of the distance that `also` adds
    ],
)
def test_an_infinite_gradient_reaches_neither_pixels_nor_checkpoint(
    name: str, position: int | None, what: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, after, out = method(name, **METHODS[name]), After(), tmp_path / "set.safetensors"
    options = RunOptions(device="cpu", threads=1, checkpoint_seconds=0.0, reporter=after)
    with monkeypatch.context() as patch:
        spoil(patch, after, position, value)
        with pytest.raises(Diverged, match=f"step 2: {what} is (inf|nan); the run stopped before this update"):
            distill(config, blobs(), Size(ipc=1), out=out, options=options)
    kept = sorted((tmp_path / "set.run").glob("checkpoint-*"))
    assert [path.name for path in kept] == ["checkpoint-00000001.safetensors", "checkpoint-00000002.safetensors"]
    for path in kept:
        tensors = values_of(store.read_state(path)[0])
        assert tensors
        assert all(torch.isfinite(tensor).all() for tensor in tensors)
    # so that the run goes on as if nothing had happened
    distill(config, blobs(), Size(ipc=1), out=out, options=replace(options, reporter=Silent()))
    alone = tmp_path / "alone.safetensors"
    distill(config, blobs(), Size(ipc=1), out=alone, options=replace(options, reporter=Silent()))
    assert out.read_bytes() == alone.read_bytes()
