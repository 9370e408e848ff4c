"""Differentiable inner loops: the gradient of an outer loss through steps of training.

    theta_{t+1} = step(t, theta_t, learned)          t = 0 .. T-1
    outer(theta_T)  ->  d outer / d learned,  d outer / d theta_0

`learned` is any tuple of tensors that the steps read: pixels, soft labels, learning rates. The modes:

- `full`: autograd through all steps at once. Memory grows with T.
- `adjoint`: exact too, with one step's graph at a time. The sweep forward stores the T parameter vectors (see
  `trail`) and no graph; the sweep back rebuilds step t from theta_t and pulls the cotangent lambda through it,
  (lambda, d learned) <- lambda^T d step / d (theta_t, learned). This is reverse-mode checkpointing with one
  checkpoint a step; Wang et al. 2018 sweep back by hand in the same way.
- `tesla`: the published approximation of Cui et al. 2023. It is `adjoint` with lambda held at d outer / d theta_T, so
  that the effect of a step on the gradients of later steps is left out. (For their loss and one rate b for all steps
  this is 2 (b (theta* - theta_0) + b^2 G) d g_t / d learned, with G the sum of the gradients g_t.)
- `truncated`: exact for the last `window` steps, with no gradient through earlier ones (Feng et al. 2023, RaT-BPTT).
- `auto` (`choose_mode`): `full` if its graphs fit into a share of the free memory, else `adjoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from dd_core.errors import UserError
from dd_core.networks import kernels
from dd_core.system import device as devices
from dd_core.unroll.trail import Trail

Mode = Literal["full", "adjoint", "truncated", "tesla"]
Tensors = tuple[Tensor, ...]
Step = Callable[[int, Tensors, Tensors], Tensors]

MEMORY_SHARE = 0.5  # of the free memory that `auto` lets the graphs of `full` take


@dataclass(frozen=True)
class Unrolled:
    """The outer loss and its gradients."""

    loss: Float[Tensor, ""]
    learned: Tensors  # gradients with respect to `learned`
    start: Tensors  # gradients with respect to theta_0
    final: Tensors  # the parameters theta_T


def unroll(
    step: Step,
    steps: int,
    start: Sequence[Tensor],
    learned: Sequence[Tensor],
    outer: Callable[[Tensors], Tensor],
    *,
    mode: Mode = "full",
    window: int | None = None,
) -> Unrolled:
    """Gradients of `outer(theta_T)` with respect to `learned` and to `start` (theta_0).

    `step(t, theta, learned)` must be a function of its arguments alone: `adjoint` and `tesla` call it twice. Tensors
    that the loss does not depend on get zeros. `window` is the number of last steps that `truncated` differentiates
    through. Raises `UserError` for an unknown mode and for a window outside the steps.
    """
    theta, leaves = leaves_of(start), leaves_of(learned)
    if mode in ("adjoint", "tesla"):
        return _adjoint(step, steps, theta, leaves, outer, constant=mode == "tesla")
    if mode not in ("full", "truncated"):
        raise UserError(f"unknown gradient mode '{mode}' (known: adjoint, full, tesla, truncated)")
    blind = 0
    if mode == "truncated":
        if window is None or not 1 <= window <= steps:
            raise UserError(f"mode 'truncated' needs a window from 1 to {steps} steps, not {window}")
        blind = steps - window
    return _through(step, range(steps), theta, leaves, outer, blind=blind)


def _through(
    step: Step, order: range, theta: Tensors, learned: Tensors, outer: Callable[[Tensors], Tensor], *, blind: int
) -> Unrolled:
    """Autograd through the steps after the first `blind` ones."""
    current = theta
    for t in order[:blind]:
        current = detached(step(t, leaves_of(current), learned))
    first = current if blind == 0 else leaves_of(current)
    current = first
    for t in order[blind:]:
        current = step(t, current, learned)
    loss = outer(current)
    gradients = gradients_of(loss, (*learned, *first))
    cut = len(learned)
    start = gradients[cut:] if blind == 0 else tuple(torch.zeros_like(tensor) for tensor in theta)
    return Unrolled(loss.detach(), gradients[:cut], start, detached(current))


def _adjoint(
    step: Step, steps: int, theta: Tensors, learned: Tensors, outer: Callable[[Tensors], Tensor], *, constant: bool
) -> Unrolled:
    """One forward sweep that keeps every theta_t, and one backward sweep that rebuilds each step's graph.

    constant: every step gets the cotangent lambda of the last step, as in TESLA, and lambda is not propagated.
    """
    pair = step if isinstance(step, Pair) else Rebuilt(step)
    current = theta
    with closing(Trail()) as trail:
        for t in range(steps):
            trail.push(current)
            current = pair.ahead(t, current, learned)
        final = leaves_of(current)
        loss = outer(final)
        cotangent = gradients_of(loss, final)
        total = tuple(torch.zeros_like(tensor) for tensor in learned)
        for t in reversed(range(steps)):
            pulled, cotangent = pair.back(t, trail.pop(), learned, cotangent, constant=constant)
            total = tuple(sum_ + part for sum_, part in zip(total, pulled, strict=True))
    return Unrolled(loss.detach(), total, cotangent, detached(final))


@runtime_checkable
class Pair(Protocol):
    """A step as two functions without a graph between them; see `Rebuilt`, and `pairs` for faster ones."""

    def ahead(self, t: int, theta: Tensors, learned: Tensors) -> Tensors:
        """theta_{t+1}."""
        ...

    def back(
        self, t: int, theta: Tensors, learned: Tensors, cotangent: Tensors, *, constant: bool
    ) -> tuple[Tensors, Tensors]:
        """lambda^T d theta_{t+1} / d learned, and / d theta_t; if `constant`, lambda in place of the latter."""
        ...


@dataclass(frozen=True)
class Rebuilt:
    """The pair of any step: `back` builds the graph of the step once more."""

    step: Step

    def ahead(self, t: int, theta: Tensors, learned: Tensors) -> Tensors:
        """theta_{t+1}."""
        return detached(self.step(t, leaves_of(theta), detached(learned)))

    def back(
        self, t: int, theta: Tensors, learned: Tensors, cotangent: Tensors, *, constant: bool
    ) -> tuple[Tensors, Tensors]:
        """lambda^T d theta_{t+1} / d learned, and / d theta_t; if `constant`, lambda in place of the latter."""
        before = leaves_of(theta)
        after = self.step(t, before, learned)
        if constant:
            with kernels.unsought(before):
                return gradients_of(after, learned, cotangent), cotangent
        pulled = gradients_of(after, (*learned, *before), cotangent)
        return pulled[: len(learned)], pulled[len(learned) :]


def leaves_of(tensors: Sequence[Tensor]) -> Tensors:
    """The tensors as leaves that need gradients."""
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


def detached(tensors: Sequence[Tensor]) -> Tensors:
    """The tensors outside of any graph."""
    return tuple(tensor.detach() for tensor in tensors)


def gradients_of(outputs: Tensor | Tensors, inputs: Tensors, cotangents: Tensors | None = None) -> Tensors:
    """`torch.autograd.grad`, with zeros for inputs that the outputs do not depend on."""
    gradients = cast("tuple[Tensor | None, ...]", torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True))
    return tuple(
        torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, gradients, strict=True)
    )


def cosine(ours: Unrolled, theirs: Unrolled) -> tuple[float, ...]:
    """For each learned tensor the cosine of two gradients, such as an approximate mode's and the exact one."""
    pairs = zip(ours.learned, theirs.learned, strict=True)
    return tuple(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in pairs)


# --- the inner step of distillation ------------------------------------------------------------------------------


def sgd_step(loss: Callable[[int, Tensors, Tensors], Tensor], rate: Callable[[int, Tensors], Tensor]) -> Step:
    """Plain gradient descent: theta - rate(t, learned) * d loss(t, theta, learned) / d theta."""

    def step(t: int, theta: Tensors, learned: Tensors) -> Tensors:
        # without a learned tensor that needs a gradient, the step's graph is not kept
        keep = any(tensor.requires_grad for tensor in learned)
        gradients = torch.autograd.grad(loss(t, theta, learned), theta, create_graph=keep)
        size = rate(t, learned)
        return tuple(tensor - size * gradient for tensor, gradient in zip(theta, gradients, strict=True))

    return step


def apply(network: nn.Module, theta: Tensors, images: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
    """The network with `theta` in place of its parameters, in the order of `network.parameters()`."""
    names = [name for name, _ in network.named_parameters()]
    return functional_call(network, dict(zip(names, theta, strict=True)), (images,))


def graph_bytes(step: Step, start: Sequence[Tensor], learned: Sequence[Tensor]) -> int:
    """Bytes that autograd keeps of one step in mode `full`, each storage counted once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        after = step(0, leaves_of(start), leaves_of(learned))
    del after
    return sum(kept.values())


def choose_mode(step: Step, steps: int, start: Sequence[Tensor], learned: Sequence[Tensor]) -> Mode:
    """The mode for `auto`: `full` if all steps' graphs fit into `MEMORY_SHARE` of the free memory, else `adjoint`.

    A step that is a `Pair` has no graph: `adjoint`.
    """
    if isinstance(step, Pair):
        return "adjoint"
    needed = steps * graph_bytes(step, start, learned)
    free = devices.free_memory_bytes(start[0].device)
    return "full" if needed <= MEMORY_SHARE * free else "adjoint"
