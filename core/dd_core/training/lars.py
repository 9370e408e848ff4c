"""LARS (You, Gitman and Ginsburg 2017), the usual optimiser of self-supervised networks, which torch lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dd_core.errors import UserError

_EPSILON = 1e-8


class LARS(torch.optim.Optimizer):
    """Stochastic gradient descent whose step in each layer is proportional to the norm of the layer's weights.

    For weights w of a layer, with their gradient g, decay b, learning rate r and momentum m:

        trust = eta |w| / (|g| + b |w| + 1e-8)          equation 6 of the paper
        v <- m v + trust (g + b w);  w <- w - r v

    clip: trust is replaced by min(trust / r, 1), so that no step is larger than one of plain descent at rate r. Biases
    and the scales and shifts of norms (parameters of fewer than two axes) take plain steps, without trust and decay; so
    does a layer whose weights or gradient are all zero. This is solo-learn's form: the rate multiplies the momentum, as
    in torch's SGD. In the paper the momentum accumulates the rate too, which differs where the rate changes.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        rate: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.02,
        clip: bool = True,
    ) -> None:
        """Raises `UserError` for a number that is out of range."""
        bounds = {"rate": rate >= 0, "momentum": 0 <= momentum < 1, "weight_decay": weight_decay >= 0, "eta": eta > 0}
        settings = {"lr": rate, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "clip": clip}
        for name, holds in bounds.items():
            if not holds:
                raise UserError(f"LARS: {name} is out of range: {settings['lr' if name == 'rate' else name]:g}")
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along the parameters' gradients; `closure`, if given, is called before, and its result returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        update = parameter.grad if parameter.ndim < 2 else _adapted(parameter, parameter.grad, group)
        if group["momentum"]:
            state = self.state[parameter]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(parameter)
            update = state["velocity"].mul_(group["momentum"]).add_(update)
        parameter.sub_(group["lr"] * update)


def _adapted(weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """trust (g + b w), or g where w or g is zero. No number leaves the device, so that nothing waits for a GPU."""
    size, slope, decay = weights.norm(), gradient.norm(), group["weight_decay"]
    trust = group["eta"] * size / (slope + decay * size + _EPSILON)
    if group["clip"]:
        trust = (trust / group["lr"]).clamp(max=1.0)  # at a rate of 0 it is 1, and nothing moves
    return torch.where((size > 0) & (slope > 0), trust * (gradient + decay * weights), gradient)
