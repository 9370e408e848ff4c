"""Weights of a network that came in somebody's file, kept in the cache under the digest of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from dd_core import artefacts, networks
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Tensors
from dd_core.errors import UserError
from dd_core.training.starts import weights_digest
from dd_core.training.teacher_config import KEPT


class KeptWeightsSpec(ArtefactSpec):
    """Weights by name, of any network."""

    kind: ClassVar[str] = "weights"
    verb: ClassVar[str] = "keeping"
    noun: ClassVar[str] = "set of weights"

    sha256: str = Field(description="sha256 of the weights' names, types, shapes and values")

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Keep the weights that are given as `resources`; raises `UserError` where none are."""
        del index, progress
        if not isinstance(resources, Mapping):
            raise UserError(
                f"the weights {KEPT}{self.sha256[:12]}... are not in this cache; name the file that they came in, as "
                "teacher.weights=FILE, and they are kept there"
            )
        return {f"t{position}": value for position, value in enumerate(resources.values())}, {"names": list(resources)}


def keep_weights(state: Mapping[str, Tensor]) -> str:
    """Keep weights in the cache; returns the name by which a `TeacherConfig` takes them, `sha256:...`.

    The order of the names has no say in it.
    """
    arrays = {name: state[name].numpy() for name in sorted(state)}
    sha256 = weights_digest(arrays)
    artefacts.get(KeptWeightsSpec(sha256=sha256), resources=arrays)
    return KEPT + sha256


def classes_in(kept: Artefact, model: nn.Module) -> int | None:
    """How many outputs the last linear layer of `model` has among the weights that were kept; None without it."""
    tensors, facts = kept.part(0)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or f"{linear[-1]}.weight" not in facts["names"]:
        return None
    return len(tensors[f"t{facts['names'].index(f'{linear[-1]}.weight')}"])


def load_kept(model: nn.Module, kept: Artefact) -> None:
    """Give `model` the weights of a `KeptWeightsSpec`; raises `UserError` where they are another network's."""
    tensors, facts = kept.part(0)
    state = {name: torch.tensor(tensors[f"t{position}"]) for position, name in enumerate(facts["names"])}
    networks.load_into(model, state, origin="teacher.weights")
