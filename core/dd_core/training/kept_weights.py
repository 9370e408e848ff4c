"""A network's weights from a user's file, kept in the cache under the digest of their values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dd_core import artefacts, networks
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Tensors
from dd_core.config import canonical
from dd_core.errors import UserError
from dd_core.networks.origins import KEPT, kept_digest


class KeptWeightsSpec(ArtefactSpec):
    """The spec of kept weights, of any network."""

    kind: ClassVar[str] = "weights"
    verb: ClassVar[str] = "keeping"
    noun: ClassVar[str] = "set of weights"

    sha256: str = Field(description="sha256 of the weights' names, types, shapes and values")

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Keep the weights `resources`, arrays by name; raises `UserError` where they are not given."""
        del index, progress
        if not isinstance(resources, Mapping):
            raise UserError(
                f"the weights {KEPT}{self.sha256[:12]}... are not in this cache; give the file that they came in, as "
                "weights=FILE, and the cache keeps them"
            )
        return {f"t{position}": value for position, value in enumerate(resources.values())}, {"names": list(resources)}


def weights_digest(state: Mapping[str, np.ndarray]) -> str:
    """sha256 of the names, types, shapes and values of weights, whatever file they came in."""
    whole = hashlib.sha256()
    for name, value in state.items():
        whole.update(canonical([name, value.dtype.str, list(value.shape)]).encode())
        whole.update(np.ascontiguousarray(value).tobytes())
    return whole.hexdigest()


def require_kept(file: str | None, *, option: str) -> None:
    """Raise `UserError` for weights in a `file`, which have no digest before they are kept."""
    if file is not None:
        raise UserError(
            f"{option}: the weights of {file} are not in the cache yet; give what exchange.keep_weights(FILE) returns, "
            "which keeps them"
        )


def kept_spec(weights: str) -> dict[str, ArtefactSpec]:
    """The needs of an artefact that begins with `weights`: kept weights, by the role "weights", or nothing."""
    digest = kept_digest(weights)
    return {} if digest is None else {"weights": KeptWeightsSpec(sha256=digest)}


def keep_weights(state: Mapping[str, Tensor]) -> str:
    """Keep weights in the cache; returns their name `sha256:...`, which `TeacherConfig.weights` takes.

    The name does not depend on the order of `state`.
    """
    arrays = {name: state[name].numpy() for name in sorted(state)}
    sha256 = weights_digest(arrays)
    artefacts.get(KeptWeightsSpec(sha256=sha256), resources=arrays)
    return KEPT + sha256


def classes_in(kept: Artefact, model: nn.Module) -> int | None:
    """How many outputs the last linear layer of `model` has in the kept weights; None where they lack that layer."""
    tensors, facts = kept.part(0)
    weight = f"{last_linear(model)}.weight"
    return len(tensors[f"t{facts['names'].index(weight)}"]) if weight in facts["names"] else None


def load_kept(model: nn.Module, kept: Artefact, *, origin: str = "teacher.weights", head: bool = True) -> None:
    """Give `model` the kept weights; head: False leaves the last linear layer of `model` as it is.

    Raises `UserError`, with a line that begins with `origin`, for weights of another network.
    """
    tensors, facts = kept.part(0)
    state = {name: torch.tensor(tensors[f"t{position}"]) for position, name in enumerate(facts["names"])}
    if not head:
        last = last_linear(model)
        own = {name: value for name, value in model.state_dict().items() if name.startswith(f"{last}.")}
        state = {**state, **own}
    networks.load_into(model, state, origin=origin)


def last_linear(model: nn.Module) -> str | None:
    """The path of the last linear layer of `model`, which gives a value for each class; None without one."""
    paths = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    return paths[-1] if paths else None
