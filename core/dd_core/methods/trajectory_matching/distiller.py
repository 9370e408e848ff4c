"""The loop of matching training trajectories, for every method of `config`.

`config` has the equations and the options, `unroll` the gradient, `experts` the trajectories, and `opinions` the
experts' predictions for real images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_core import augment, selection, training, unroll
from dd_core.augment.names import resolve_strategy
from dd_core.distilled import DistilledSet
from dd_core.distiller import Context
from dd_core.errors import Diverged, require_finite
from dd_core.methods.trajectory_matching import opinions
from dd_core.methods.trajectory_matching.config import EXPERTS, MTTConfig
from dd_core.methods.trajectory_matching.experts import WHITENING, form_of, mapped
from dd_core.synthetic import Synthetic, initial_real, mosaic
from dd_core.unroll import InnerSteps, Mode, Tensors, Unrolled

LABEL_MOMENTUM = 0.9  # of the soft labels' SGD (DATM's code)
AVERAGED = 0.95  # decay of the running mean of the loss that is compared with `range_below`
COSINE_AMP = 100  # outer iterations between two logs of the cosine in bfloat16, if `cosine_every` gives no number
UNMATCHED = 1.0  # first value of the running mean: the loss of a student that stays at its start


class Pair(NamedTuple):
    """Weights of an expert: where a student starts (expert_t), and where it should arrive (expert_{t+M})."""

    start: Tensors
    target: Tensors


def relative_distance(pair: Pair) -> Callable[[Tensors], Tensor]:
    """Equation 2: a student's squared distance to the target, divided by the start's squared distance to the target."""
    whole = squared_distance(pair.start, pair.target)
    return lambda final: squared_distance(final, pair.target) / whole


def squared_distance(weights: Tensors, others: Tensors) -> Tensor:
    """A scalar: the squared distance of two networks' weights."""
    return sum((a - b).square().sum() for a, b in zip(weights, others, strict=True))  # pyright: ignore[reportReturnType]


class TrajectoryMatchingDistiller:
    """Synthetic images, the student's learning rate and soft labels while they are learned."""

    def __init__(self, config: MTTConfig, context: Context) -> None:
        source, streams, device = context.source, context.streams, context.device
        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.experts = context.artefacts[EXPERTS]
        self.form = form = form_of(source, config.statistics, context.artefacts.get(WHITENING))
        self.counts = context.counts
        self.labels = selection.labels_of(self.counts)
        self.members = selection.members_of(source, self.counts)
        self.strategy = resolve_strategy(config.augmentation, source.name)
        # only the architecture is used: all weights come from the experts
        model = training.initialised(config.recipe, source.image_shape, len(self.counts), streams=streams)
        self.network = model.to(device).eval()
        self._trajectory = mapped(self.experts)
        labels, clamp = self.labels, "raw" if config.clamp else "none"
        self.images = Synthetic(
            self._initial_pixels(), labels, form, formation=config.formation, clamp=clamp, ema=config.ema
        )
        self.pixels = self.images.pixels
        self.rate = torch.tensor(config.lr_student, device=device, requires_grad=True)
        groups: list[dict[str, Any]] = [
            {"params": [self.pixels], "lr": config.lr_img},
            {"params": [self.rate], "lr": config.lr_lr},
        ]
        self.soft = self._mean_logits().requires_grad_() if config.soft_labels else None
        if self.soft is not None:
            groups += [{"params": [self.soft], "lr": config.lr_label, "momentum": LABEL_MOMENTUM}]
        self.optimiser = torch.optim.SGD(groups, momentum=config.momentum)
        self.exact_steps = InnerSteps(self._loss)
        how = unroll.how_to_step(config.gradient, device, asked=config.compile)
        bound = unroll.BOUND_AMP if config.amp else unroll.BOUND
        self.inner_steps = InnerSteps(self._loss_amp, how, bound=bound, message=context.message)
        self.mode: Mode | None = None if config.gradient == "auto" else config.gradient
        self.reach = config.range_start or config.last_epoch  # T, which `range_below` moves
        self.mean_loss = UNMATCHED

    @property
    def learned(self) -> Tensors:
        """The learned tensors: pixels, the student's learning rate, and, with `soft_labels`, their logits."""
        return (self.pixels, self.rate) if self.soft is None else (self.pixels, self.rate, self.soft)

    @property
    def inner_steps_taken(self) -> str | None:
        """See `distiller.Compiling`."""
        return self.inner_steps.taken

    def step(self, index: int) -> dict[str, float]:
        """One student against one expert, then one SGD step of `learned` (none where the loss exceeds `threshold`)."""
        pair = self._pair(index)
        result, report = self._unrolled(index, pair)
        for leaf, gradient in zip(self.learned, result.learned, strict=True):
            leaf.grad = gradient
        if self.config.also is not None:
            report[self.config.also] = self._add_distance(index, pair.start)
        self._require_finite(report["loss"])
        taken = self._update(report["loss"])
        if self.config.threshold is not None:
            report["taken"] = float(taken)
        if self.config.range_start is not None:
            report["range"] = float(self._range_end(index))
            self._move_range(report["loss"])
        return report

    def _unrolled(self, index: int, pair: Pair) -> tuple[Unrolled, dict[str, float]]:
        """Loss and gradients of a student's inner steps, and the numbers to log."""
        config, seen, distance = self.config, self._seen(index), relative_distance(pair)
        inner = self.inner_steps.step(seen)
        learned = tuple(leaf.detach() for leaf in self.learned)
        if self.mode is None:
            self.mode = unroll.choose_mode(inner, config.syn_steps, pair.start, learned)
        result = unroll.unroll(
            inner, config.syn_steps, pair.start, learned, distance, mode=self.mode, window=config.window
        )
        report = {"loss": result.loss.item(), "rate": self.rate.item()}
        every = config.cosine_every or (COSINE_AMP if config.amp else 0)
        if every and index % every == 0:
            steps = self.exact_steps.step(seen)
            exact = unroll.unroll(steps, config.syn_steps, pair.start, learned, distance, mode="adjoint")
            report["cosine"] = unroll.cosine(result, exact)[0]
        return result, report

    def _require_finite(self, loss: float) -> None:
        """Raise `Diverged` for a loss or a gradient that is not finite."""
        names = ("gradient", "gradient of the rate", "gradient of the labels")  # in the order of `learned`
        norms = [0.0 if leaf.grad is None else leaf.grad.norm().item() for leaf in self.learned]
        require_finite(loss=loss, **dict(zip(names, norms, strict=False)))

    def _update(self, loss: float) -> bool:
        """One step of SGD, unless the loss is above the threshold; returns whether the step was taken."""
        taken = self.config.threshold is None or loss <= self.config.threshold
        if taken:
            self.optimiser.step()
        self.images.updated()
        if self.rate.item() <= 0:
            raise Diverged(f"the student's learning rate became {self.rate.item():.2g}")
        return taken

    # --- where students start and arrive ------------------------------------------------------------------------

    def _range_end(self, index: int) -> int:
        """T: the end (exclusive) of the start-epoch range at outer iteration `index`."""
        config = self.config
        if config.range_start is None or config.range_below is not None:
            return self.reach
        grown = (config.last_epoch - config.range_start) * index // config.range_growth
        return min(config.last_epoch, config.range_start + grown)

    def _move_range(self, loss: float) -> None:
        """With `range_below`: let the range grow by an epoch when the running mean of the loss falls below it."""
        if self.config.range_below is None:
            return
        self.mean_loss = AVERAGED * self.mean_loss + (1 - AVERAGED) * loss
        if self.mean_loss < self.config.range_below and self.reach < self.config.last_epoch:
            self.reach, self.mean_loss = self.reach + 1, UNMATCHED

    def _pair(self, index: int) -> Pair:
        """(expert_t, expert_{t+M}) as parameters: experts in shuffled order, t uniform in [T-, T)."""
        turn, place = divmod(index, len(self.experts))
        order = torch.randperm(len(self.experts), generator=self.streams.generator("experts", turn))
        rows = self._trajectory(int(order[place]))
        choices = self._range_end(index) - self.config.first_epoch
        t = int(torch.randint(choices, (), generator=self.streams.generator("epoch", index)))
        t += self.config.first_epoch if self.config.keep == "all" else 0  # row 0 is the first epoch that is kept
        return Pair(self._parameters(rows[t]), self._parameters(rows[t + self.config.expert_epochs]))

    def _parameters(self, flat: Tensor) -> Tensors:
        return opinions.parameters_of(self.network, flat.to(self.device))

    # --- the inner loop -------------------------------------------------------------------------------------------

    def _seen(self, index: int) -> Callable[[int, Tensors], Tensors]:
        """What student step t reads: a mini-batch of the synthetic images under DSA, their targets, and alpha."""
        batches, labels = self._batches(index), self.images.seen_labels.to(self.device, non_blocking=True)

        def seen(t: int, learned: Tensors) -> Tensors:
            rows, generator = batches[t], self.streams.generator("augmentation", index * self.config.syn_steps + t)
            images = augment.dsa(self.images.decode(learned[0])[rows], self.strategy, generator=generator)
            targets = labels[rows] if self.soft is None else learned[2][rows].softmax(1)
            return images, targets, learned[1]

        return seen

    def _loss(self, theta: Tensors, images: Tensor, targets: Tensor) -> Tensor:
        """The student's loss in float32."""
        return F.cross_entropy(unroll.apply(self.network, theta, images), targets)

    def _loss_amp(self, theta: Tensors, images: Tensor, targets: Tensor) -> Tensor:
        """The student's loss, with `amp` in bfloat16 but for weights and cross-entropy."""
        if not self.config.amp:
            return self._loss(theta, images, targets)
        # autocast's cache of cast weights would not survive the capture of a graph
        with torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False):
            logits = unroll.apply(self.network, theta, images)
        return F.cross_entropy(logits.float(), targets)

    def _batches(self, index: int) -> list[Tensor]:
        """Rows of the mini-batch of each inner step: shuffled passes over the synthetic images that networks see."""
        count = len(self.images.seen_labels)
        size = min(self.config.batch_syn or count, count)
        generator = self.streams.generator("batches", index)
        batches: list[Tensor] = []
        while len(batches) < self.config.syn_steps:
            batches += torch.randperm(count, generator=generator).split(size)
        return [rows.to(self.device, non_blocking=True) for rows in batches[: self.config.syn_steps]]

    def _add_distance(self, index: int, start: Tensors) -> float:
        """Add the weighted gradient of the distance `also`, at the weights `start`; returns that distance."""
        config = self.config
        with torch.no_grad():
            for parameter, value in zip(self.network.parameters(), start, strict=True):
                parameter.copy_(value)
        measure = opinions.feature_distance if config.also == "features" else opinions.gradient_distance
        total, gradients = 0.0, list[Tensor]()
        for label, own in enumerate(self.pixels.detach().split(list(self.counts))):  # a class at a time: less memory
            images = own.clone().requires_grad_()
            # a new generator for each: real and synthetic images of every class get the same transform (siamese)
            real, synthetic = (
                augment.dsa(
                    several,
                    self.strategy,
                    generator=self.streams.generator("augmentation-of-both", index),
                    siamese=True,
                )
                for several in (self._real_batch(index, label), self.images.decode(images))
            )
            distance = measure(self.network, real, synthetic, label)
            gradients += torch.autograd.grad(distance, images)
            total += distance.item()
        assert self.pixels.grad is not None
        self.pixels.grad = self.pixels.grad + config.also_weight * torch.cat(gradients)
        return total

    def _real_batch(self, index: int, label: int) -> Tensor:
        """Random real images of a class, as network inputs."""
        members = self.members[label]
        order = torch.randperm(len(members), generator=self.streams.generator(f"real-{label}", index))
        images = self.source.take(members[order[: self.config.batch_real]])
        return self.form(images.to(self.device, non_blocking=True))

    # --- what experts say of real images ----------------------------------------------------------------------------

    def _initial_pixels(self) -> Tensor:
        """The real images that the set starts from, as network inputs."""
        if self.config.initial == "random":
            return initial_real(
                self.source,
                self.counts,
                self.form,
                streams=self.streams,
                device=self.device,
                formation=self.config.formation,
            )

        def right(expert: int) -> Tensor:
            return opinions.right_of(self.network, self._trajectory(expert)[-1], self.source, self.form, self.device)

        wanted = [count * self.config.formation**2 for count in self.counts]
        rows = opinions.right_indices(self.source, wanted, right, len(self.experts), streams=self.streams)
        return mosaic(self.form(self.source.take(rows).to(self.device)), self.config.formation)

    def _mean_logits(self) -> Tensor:
        """(N, K) mean logits of the last-epoch experts that classify an initial image rightly."""
        pixels = self.pixels.detach()
        each = [
            opinions.logits_of(self.network, self._trajectory(expert)[-1], pixels)
            for expert in range(len(self.experts))
        ]
        return opinions.mean_logits(torch.stack(each), self.labels.to(self.device))

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Learned tensors, momentum, how gradients are computed, and the end of the start-epoch range."""
        return {
            "learned": [leaf.detach().clone() for leaf in self.learned],
            "average": None if self.images.average is None else self.images.average.clone(),
            "optimiser": self.optimiser.state_dict(),
            "mode": self.mode,
            **self.inner_steps.state_dict(),
            "reach": self.reach,
            "mean_loss": self.mean_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        with torch.no_grad():
            for leaf, value in zip(self.learned, state["learned"], strict=True):
                leaf.copy_(value)
            if self.images.average is not None:
                self.images.average.copy_(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.mode, self.reach, self.mean_loss = state["mode"], state["reach"], state["mean_loss"]
        self.inner_steps.load_state_dict(state)

    def export(self) -> DistilledSet:
        """The pixels or their average, float32 network inputs, with the learned rate and the soft labels' logits."""
        recipe = self.config.recipe.model_copy(update={"learning_rate": self.rate.item()})
        return self.images.export(
            recipe.for_source(self.source.name),
            classes=self.source.classes,
            targets=self.soft,
            kind="none" if self.soft is None else "logits",
        )
