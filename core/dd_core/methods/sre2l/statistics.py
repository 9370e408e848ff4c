"""The distance between the statistics of batch norms' inputs and their running statistics.

Shapes: B images, C channels of a batch norm's input.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dd_core import networks


class StatisticsMatching:
    """A context in which a forward pass of `network` measures its batch norms' inputs; `distance()` gives the result.

    distance = sum_l s_l (|| mu_l - mean_l ||_2 + || sigma_l^2 - var_l ||_2), with mu_l and sigma_l^2 the mean and the
    biased variance of each channel of batch norm l's input, and mean_l and var_l its running statistics. s_l is `first`
    for the first batch norm and 1 for others (Yin et al. 2020, equation 4; SRe2L's weights).
    """

    def __init__(self, network: nn.Module, *, first: float) -> None:
        self._norms = list(networks.batch_norms(network).values())
        self._first = first
        self._distances: list[Tensor] = []
        self._stack = ExitStack()

    def __enter__(self) -> StatisticsMatching:
        for norm in self._norms:
            self._stack.callback(norm.register_forward_pre_hook(self._look).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _look(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        factor = self._first if norm is self._norms[0] else 1.0
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        values = networks.norm_inputs(norm, inputs[0])
        self._distances.append(factor * distance(values, mean, variance))

    def distance(self) -> Float[Tensor, ""]:
        """The distance of the forward pass since the last call, a scalar."""
        total = torch.stack(self._distances).sum()
        self._distances.clear()
        return total


def distance(inputs: Float[Tensor, "B C *rest"], mean: Float[Tensor, " C"], variance: Float[Tensor, " C"]) -> Tensor:
    """A scalar: || mu - mean ||_2 + || sigma^2 - variance ||_2, with mu and sigma^2 by channel, in float32 at least."""
    values = inputs if inputs.dtype == torch.float64 else inputs.float()
    across = [axis for axis in range(values.ndim) if axis != 1]
    variances, means = torch.var_mean(values, dim=across, correction=0)
    return (means - mean).norm() + (variances - variance).norm()
