"""Inner steps as pairs of functions of fixed shapes, which are compiled on a CPU, or captured as CUDA graphs on a GPU.

A step of gradient descent reads images, targets and a learning rate, together called `seen`:

    ahead:   theta, seen          ->  theta' = theta - rate * d loss(theta, images, targets) / d theta
    back:    theta, seen, lambda  ->  lambda^T d theta' / d (seen, theta)

Each function has all its derivatives inside, the second ones too, because PyTorch's compiler does not differentiate
twice (pytorch/pytorch#91469). What differs from step to step, the choice of images and DSA, makes `seen` from the
learned tensors outside of the functions, and autograd differentiates it. The modes `adjoint` and `tesla` of `unroll`
need no more than these two functions.

The first results for each shape are compared with those of eager PyTorch. Where a function cannot be made, or differs
by more than `bound`, all later steps are eager, and a message says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dd_core.errors import DDError, UserError
from dd_core.networks import kernels
from dd_core.system import device as devices
from dd_core.unroll.gradients import Rebuilt, Step, Tensors, detached, gradients_of, leaves_of, sgd_step

How = Literal["eager", "compiled", "captured"]
Loss = Callable[[Tensors, Tensor, Tensor], Tensor]  # (theta, images, targets) -> a scalar
Seen = Callable[[int, Tensors], Tensors]  # (t, learned) -> images, targets and rate of step t
Function = Callable[..., Tensors]

BOUND = 1e-5  # largest relative error to eager float32
BOUND_AMP = 1e-2  # the same where eager PyTorch itself computes in bfloat16, with 8 bits of precision


def how_to_step(gradient: str, device: torch.device, *, asked: bool | None) -> How:
    """How a run takes its inner steps, by what was asked, the gradient mode and the kind of device alone.

    asked: True: compiled on a CPU, captured on a GPU; False: eager; None: captured on a GPU, else eager. The modes
    `full` and `truncated`, whose graphs reach over several steps, are eager.
    """
    if asked is False or gradient not in ("auto", "adjoint", "tesla"):
        return "eager"
    if devices.captures(device):
        return "captured"
    return "compiled" if asked else "eager"


class InnerSteps:
    """Inner steps of one loss, over all outer iterations of a run.

    loss: (theta, images, targets) -> a scalar; a function of its arguments alone. bound: largest relative error to
    eager PyTorch. message: told that the compiler works, and why steps are eager after all. Where a loaded state says
    that the run's earlier steps were not eager, `UserError` is raised instead of going on with eager ones.
    """

    def __init__(
        self, loss: Loss, how: How = "eager", *, bound: float = BOUND, message: Callable[[str], None] | None = None
    ) -> None:
        self.loss, self.how, self.bound, self.message = loss, how, bound, message
        self._ways: dict[str, None] = {}  # in which steps were taken, of those that were not meant to be eager
        self._sgd = sgd_step(lambda t, theta, seen: loss(theta, *seen[:2]), lambda t, seen: seen[2])
        self._resumed = False
        self._made: dict[tuple[Any, ...], Function] = {}

    def step(self, seen: Seen) -> Step:
        """The steps of one outer iteration, in which step t reads `seen(t, learned)`."""
        return self._eager(seen) if self.how == "eager" else PairedStep(self, seen, self._eager(seen))

    @property
    def taken(self) -> str | None:
        """How steps were taken, "compiled and eager" where both were; None where none was, or only eager was meant."""
        return " and ".join(self._ways) or None

    def state_dict(self) -> dict[str, Any]:
        """How steps are taken, and in which ways they were."""
        return {"inner_steps": self.how, "inner_steps_taken": list(self._ways)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a run, whose state may have more keys, or none of these: a run that was eager stays so."""
        how = state.get("inner_steps", "eager")
        if how == "eager":
            self.how = "eager"
        self._ways = dict.fromkeys(state.get("inner_steps_taken", []))
        self._resumed = how == self.how != "eager"

    def _eager(self, seen: Seen) -> Step:
        return lambda t, theta, learned: self._sgd(0, theta, seen(t, learned))

    def ahead(self, theta: Tensors, seen: Tensors) -> Tensors:
        """theta'."""

        def function(*tensors: Tensor) -> Tensors:
            with torch.enable_grad():
                return detached(self._sgd(0, leaves_of(tensors[: len(theta)]), tensors[len(theta) :]))

        return self._call(("ahead",), function, (*theta, *seen), lambda outputs: [outputs])

    def back(self, theta: Tensors, seen: Tensors, cotangent: Tensors, *, constant: bool) -> tuple[Tensors, Tensors]:
        """Gradients of lambda^T theta' with respect to `seen`, but to no integers, and to theta: none if `constant`."""
        count, end = len(theta), len(theta) + len(seen)
        floats = [tensor.is_floating_point() for tensor in seen]

        def function(*tensors: Tensor) -> Tensors:
            weights, inputs = leaves_of(tensors[:count]), _float_leaves(tensors[count:end])
            sought = tuple(tensor for tensor in inputs if tensor.requires_grad)
            with torch.enable_grad():
                after = self._sgd(0, weights, inputs)
            if not constant:
                return gradients_of(after, (*sought, *weights), tensors[end:])
            with kernels.unsought(weights):
                return gradients_of(after, sought, tensors[end:])

        def parts(outputs: Tensors) -> list[Tensors]:
            # the rate's gradient is one sum, which may come close to 0: its error counts beside lambda
            *others, rate = outputs[: sum(floats)]
            return [*((other,) for other in others), (rate, *(outputs[sum(floats) :] or cotangent))]

        found = self._call(("back", constant), function, (*theta, *seen, *cotangent), parts)
        return found[: sum(floats)], found[sum(floats) :] or cotangent

    # --- making functions fast ----------------------------------------------------------------------------------------

    def _call(
        self, kind: tuple[Any, ...], function: Function, tensors: Tensors, parts: Callable[[Tensors], list[Tensors]]
    ) -> Tensors:
        """`function` of the tensors; at the first call for their shapes it is made fast, and compared."""
        if self.how == "eager":
            return function(*tensors)
        key = (*kind, *((tensor.shape, tensor.dtype) for tensor in tensors))
        with torch.no_grad():
            tensors = tuple(tensor.contiguous() for tensor in tensors)  # other strides would be compiled anew
            if key in self._made:
                return self._made[key](*tensors)
            eager = function(*tensors)
            if not all(tensor.isfinite().all() for tensor in eager):
                return eager  # nothing to compare with; the method raises `Diverged`
            if self.how == "compiled" and not self._made:
                self._say("compiling inner steps, which takes about a minute")
            try:
                fast = (compiled if self.how == "compiled" else devices.Captured)(function, *tensors)
                found = fast(*tensors)
            except Exception as error:  # compilers raise anything
                if isinstance(error, DDError) or devices.is_out_of_memory(error):
                    raise
                return self._give_up(f"cannot be {self.how} here ({_first_line(error)})", eager)
            error = relative_error(parts(found), parts(eager))
            if not error <= self.bound:
                return self._give_up(f"differ from eager ones by {error:.1e} when {self.how}", eager)
        self._made[key] = fast
        self._ways[self.how] = None
        return found

    def _give_up(self, why: str, eager: Tensors) -> Tensors:
        if self._resumed:
            raise UserError(
                f"the run's inner steps were {self.how} so far, and now they {why}; resume where it began, or start "
                "over without compile"
            )
        self._say(f"inner steps {why}; they are eager instead")
        self.how = "eager"
        self._ways["eager"] = None
        self._made.clear()
        return eager

    def _say(self, text: str) -> None:
        if self.message is not None:
            self.message(text)


@dataclass(frozen=True)
class PairedStep:
    """The inner steps of one outer iteration; called, a step is eager PyTorch that autograd can differentiate."""

    steps: InnerSteps
    seen: Seen
    eager: Step

    def __call__(self, t: int, theta: Tensors, learned: Tensors) -> Tensors:
        """theta'."""
        return self.eager(t, theta, learned)

    def ahead(self, t: int, theta: Tensors, learned: Tensors) -> Tensors:
        """theta', without a graph."""
        with torch.no_grad():
            return self.steps.ahead(theta, detached(self.seen(t, learned)))

    def back(
        self, t: int, theta: Tensors, learned: Tensors, cotangent: Tensors, *, constant: bool
    ) -> tuple[Tensors, Tensors]:
        """Gradients of lambda^T theta' with respect to `learned`, and to theta; lambda itself if `constant`."""
        if self.steps.how == "eager":
            return Rebuilt(self.eager).back(t, theta, learned, cotangent, constant=constant)
        with torch.enable_grad():
            seen = self.seen(t, learned)
        of_seen, of_theta = self.steps.back(detached(theta), detached(seen), cotangent, constant=constant)
        floats = [tensor for tensor in seen if tensor.is_floating_point()]
        pairs = [(tensor, grad) for tensor, grad in zip(floats, of_seen, strict=True) if tensor.requires_grad]
        tensors, gradients = (tuple(each) for each in zip(*pairs, strict=True))
        return gradients_of(tensors, learned, gradients), of_theta


def compiled(function: Function, *examples: Tensor) -> Function:
    """`function` compiled by Inductor for the shapes of the examples, which takes half a minute."""
    separate = tuple(tensor.detach().clone() for tensor in examples)  # a tensor given twice is traced as one argument
    traced = make_fx(function)(*separate)
    fast = torch.compile(traced, fullgraph=True, dynamic=False, options={"compile_threads": 1})
    logger = logging.getLogger("torch.utils.cpp_extension")  # warns that a CPU is no GPU
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        fast(*separate)  # compiles
    finally:
        logger.setLevel(before)
    return fast


def relative_error(ours: Sequence[Tensors], theirs: Sequence[Tensors]) -> float:
    """The largest ||a - b|| / ||b|| over vectors, each given in parts."""
    flat = [[torch.cat([tensor.flatten() for tensor in vector]) for vector in each] for each in (ours, theirs)]
    return max(0.0 if torch.equal(a, b) else float((a - b).norm() / b.norm()) for a, b in zip(*flat, strict=True))


def _float_leaves(tensors: Sequence[Tensor]) -> Tensors:
    return tuple(tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in tensors)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:200]
