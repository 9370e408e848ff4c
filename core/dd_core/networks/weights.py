"""Loading given weights into a network: all of them, or, after an error, none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from dd_core.errors import UserError

SHOWN = 3  # differences that an error names


def load_into(network: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Give `network` the weights and running statistics in `state`, by name, in the network's own precision.

    Weights from before 2018 lack the batch norms' counts of batches, so only such counts may be missing. Raises
    `UserError`, in one line that begins with `origin` and names the first three differences, where names, shapes or
    kinds of numbers differ from the network's, and for a number that is too large for the network's precision; the
    network then stays as it was.
    """
    differences = list(_differences(network.state_dict(), state))
    if differences:
        more = f", and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise UserError(f"{origin}: not the weights of this network: {', '.join(differences[:SHOWN])}{more}")
    network.load_state_dict(dict(state))


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in own.items():
        if name in state:
            yield from _difference(name, tensor, state[name])
        elif not name.endswith("num_batches_tracked"):
            yield f"'{name}' is missing"
    for name in state:
        if name not in own:
            yield f"{name[:60]!r} is not in the network"


def _difference(name: str, own: Tensor, given: Tensor) -> Iterator[str]:
    if given.shape != own.shape:
        yield f"'{name}' is {tuple(given.shape)} and not {tuple(own.shape)}"
    elif given.is_floating_point() != own.is_floating_point():
        yield f"'{name}' is {_kind(given)} and not {_kind(own)}"
    elif not torch.isfinite(given.to(own.dtype)).all():
        yield f"'{name}' has a value that is no finite {_kind(own)}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
