"""`mtt`, `ftd`, `datm`, `m-datm`, `tesla`: matching training trajectories (Cazenavette et al. 2022).

Experts were trained on the real images, and their weights are known after every epoch. A student starts where an expert
was, learns from the synthetic images for N steps, and should come to where the expert was M epochs later (equation 2):

    theta_0 = expert_t,   theta_{i+1} = theta_i - alpha grad l(A(x), theta_i),   i = 0 .. N-1

    minimise over x and alpha:   || theta_N - expert_{t+M} ||^2 / || expert_t - expert_{t+M} ||^2

The start t is uniform in [T-, T+), A is the augmentation (DSA), drawn anew at every inner step, and alpha, the
student's learning rate, is what networks are to be trained with on the set. The other methods are other defaults:

- `ftd` (Du et al. 2023): flat experts, and an average of the pixels over the outer iterations;
- `datm` (Guo et al. 2024): flat experts; t from [T-, T), where T grows from T_0 to T+; images that an expert gets right
  to start from; soft labels, the experts' mean logits at first, that are learned too; no step where the loss is high;
- `m-datm` (the ECCV-2024 challenge's winner, arXiv 2410.13311): `datm` for an evaluator that makes up the labels itself
  and has a rate of its own: hard labels, alpha as it is, and a narrow range of easy epochs;
- `tesla` (Cui et al. 2023): an approximate gradient, in memory that does not grow with N.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dd_core.augment_names import parse_strategy, resolve_strategy
from dd_core.config import checked
from dd_core.distilled import DISTRIBUTIONS, DistilledSet, Manifest, Pixels, Recipe, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import Diverged, UserError, require_finite
from dd_core.expert_training import Sharpness, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.artefacts import Artefact, ArtefactSpec
    from dd_core.images import InputForm, Source
    from dd_core.streams import Streams
    from dd_core.unroll import Mode, Step, Tensors


LABEL_MOMENTUM = 0.9  # of the soft labels' SGD (DATM's code)
AVERAGED = 0.95  # decay of the mean loss that `range_below` looks at
UNMATCHED = 1.0  # what that mean begins with: the loss of a student that goes nowhere


class TrajectoryMatching(MethodConfig):
    """Hyper-parameters of matching training trajectories; experts and students are the recipe's network."""

    name: ClassVar[str] = "mtt"

    steps: int = Field(default=300, ge=0, description="outer iterations (paper: 5000; DATM 10000)")
    syn_steps: int = Field(default=20, ge=1, description="inner steps of a student (N)")
    expert_epochs: int = Field(default=2, ge=1, description="epochs of an expert that they are to make up for (M)")
    first_epoch: int = Field(default=0, ge=0, description="first epoch that a student starts from (T-)")
    last_epoch: int = Field(
        default=10, ge=1, description="end of the epochs that a student starts from (T+), not among them"
    )
    range_start: int | None = Field(
        default=None, ge=1, description="that end at first, which then grows to last_epoch (T_0); none: no growth"
    )
    range_growth: int = Field(default=100, ge=1, description="outer iterations until it has grown")
    range_below: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="it grows by an epoch whenever the mean loss of late (1 at first) falls below this, not by "
        "iterations",
    )
    threshold: float | None = Field(
        default=None, gt=0, description="loss above which no step is taken (DATM: 1); none: all are"
    )
    initial: Literal["random", "right"] = Field(
        default="random", description="real images to start from: random ones, or such as an expert gets right"
    )
    soft_labels: bool = Field(
        default=False, description="learn soft labels too, from the mean logits of the experts that are right"
    )
    lr_label: float = Field(default=0.5, ge=0, description="SGD's rate for the soft labels' logits (lr_y)")
    batch_syn: int | None = Field(default=None, ge=1, description="synthetic images in an inner step; none: all")
    lr_img: float = Field(default=100.0, gt=0, description="SGD's rate for the pixels")
    lr_lr: float = Field(default=1e-7, ge=0, description="SGD's rate for the student's learning rate; 0 leaves it")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of both")
    ema: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="decay of the average of the pixels that the set is made of; none: the last",
    )
    lr_student: float = Field(default=0.005, gt=0, description="initial learning rate of a student (alpha)")
    zca: bool = Field(
        default=False, description="whiten the pixels (ZCA fitted on the real images), for experts, students and set"
    )
    statistics: Literal["data", "imagenet"] = Field(
        default="data", description="mean and std that pixels are normalised with, unless they are whitened"
    )
    augmentation: str = Field(default="auto", description="DSA strategy (A); auto: all, without flip for digits")
    gradient: Literal["auto", "full", "adjoint", "truncated", "tesla"] = Field(
        default="auto", description="how to differentiate through the steps, see `unroll`; auto: full while it fits"
    )
    window: int | None = Field(default=None, ge=1, description="last steps that 'truncated' looks at")
    cosine_every: int = Field(
        default=0,
        ge=0,
        description="outer iterations between logs of the cosine of the pixels' gradient to the exact one; 0: none",
    )
    also: Literal["features", "gradients"] | None = Field(
        default=None,
        description="a distance of synthetic to real images that is added, at the weights where the student starts: of "
        "the classes' mean features (DM), or of their gradients (DC)",
    )
    also_weight: float = Field(default=0.1, gt=0, description="weight of that distance")
    batch_real: int = Field(default=64, ge=1, description="real images of each class in that distance")
    experts: int = Field(default=10, ge=1, description="experts (paper: 100)")
    experts_seed: int = Field(default=0, ge=0, description="seed of the experts")
    keep: Literal["matched", "all"] = Field(
        default="matched",
        description="epochs of the experts that are kept: what is matched, or all of them, which other ranges share",
    )
    training: Training = Field(default=Training(augmentation="auto"), description="how experts are trained")
    recipe: Recipe = Field(
        default=Recipe(epochs=1001, augmentation="auto"),
        description="how to train on the set, but for the learned rate, and the network",
    )

    @field_validator("augmentation")
    @classmethod
    def _augmentation_has_a_name(cls, strategy: str) -> str:
        return strategy if strategy == "auto" else checked(strategy, parse_strategy)

    @model_validator(mode="after")
    def _fits_together(self) -> TrajectoryMatching:
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(f"recipe.initialisation: {' or '.join(map(repr, DISTRIBUTIONS))}")
        start = self.last_epoch if self.range_start is None else self.range_start
        if not self.first_epoch < start <= self.last_epoch:
            what = "" if self.range_start is None else f", range_start {start}"
            raise ValueError(
                f"students start from no epoch: first_epoch {self.first_epoch}{what}, last_epoch {self.last_epoch}"
            )
        if self.zca and self.statistics != "data":
            raise ValueError(f"statistics '{self.statistics}' normalise pixels, and zca whitens them instead")
        if self.range_below is not None and self.range_start is None:
            raise ValueError("range_below says when the range grows, and needs a range_start to grow from")
        if self.matched > self.training.epochs:
            raise ValueError(
                f"last_epoch {self.last_epoch} and expert_epochs {self.expert_epochs} need experts of "
                f"{self.matched} epochs; training.epochs is {self.training.epochs}"
            )
        if self.gradient == "truncated" and (self.window is None or self.window > self.syn_steps):
            raise ValueError(f"gradient 'truncated' needs a window from 1 to {self.syn_steps} steps, not {self.window}")
        return self

    @property
    def matched(self) -> int:
        """The last epoch of an expert that a student is compared with."""
        return self.last_epoch - 1 + self.expert_epochs

    def needs(self, source: Source) -> tuple[ArtefactSpec, ...]:
        """The whitening, and the experts: epochs that are matched, and the last one where it is asked about images."""
        from dd_core import zca
        from dd_core.experts import Experts

        asked, whole = self.soft_labels or self.initial == "right", self.keep == "all"
        # experts whose last epochs nobody looks at are the same for any number of them
        epochs = self.training.epochs if asked or whole or self.training.decay else self.matched
        strategy = resolve_strategy(self.training.augmentation, source.name)
        whitening = (zca.spec_of(source),) if self.zca else ()
        return (
            *whitening,
            Experts(
                source=source.fingerprint(),
                network=self.recipe.network,
                initialisation=self.recipe.initialisation,
                image_shape=source.image_shape,
                classes=len(source.classes),
                count=self.experts,
                seed=self.experts_seed,
                zca=self.zca,
                statistics=self.statistics,
                training=self.training.model_copy(update={"epochs": epochs, "augmentation": strategy}),
                first=0 if whole else self.first_epoch,
                last=epochs if whole else self.matched,
                final=asked or whole,
            ),
        )

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` before experts are trained for nothing.

        Where a class has too few images to start from, for images too large to be whitened, and for a network whose
        outputs depend on more than its arguments.
        """
        from dd_core import zca
        from dd_core.selection import members_of
        from dd_core.training import require_pure

        members_of(source, size.per_class(len(source.classes)))
        require_pure(self.recipe, source.image_shape, len(source.classes), method=self.name)
        if self.zca:
            zca.check_source(source)
        elif self.statistics == "imagenet" and source.image_shape[0] != 3:
            raise UserError(f"statistics 'imagenet' are of 3 channels, and {source.name} has {source.image_shape[0]}")

    def build(
        self,
        *,
        source: Source,
        size: Size,
        artefacts: Mapping[str, Artefact],
        streams: Streams,
        device: torch.device,
    ) -> Matching:
        """Start from real images; raises what `check` raises."""
        from dd_core.experts import form_of

        self.check(source, size)
        *whitening, experts = (artefacts[spec.digest()] for spec in self.needs(source))
        form = form_of(source, self.statistics, *whitening)
        return Matching(self, source, size=size, form=form, experts=experts, streams=streams, device=device)


FLAT = Training(augmentation="auto", sharpness=Sharpness())


class FlatTrajectoryMatching(TrajectoryMatching):
    """Hyper-parameters of FTD: trajectory matching along flat experts, with averaged pixels."""

    name: ClassVar[str] = "ftd"

    ema: float | None = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="decay of the average of the pixels that the set is made of (paper: 0.999 to 0.9999, 5000 steps)",
    )
    training: Training = Field(default=FLAT, description="how experts are trained: by GSAM")


class DifficultyAligned(TrajectoryMatching):
    """Hyper-parameters of DATM: epochs as difficult as the size of the set wants, and soft labels."""

    name: ClassVar[str] = "datm"

    range_start: int | None = Field(
        default=5,
        ge=1,
        description="end of the epochs that a student starts from at first (T_0), which grows to last_epoch",
    )
    threshold: float | None = Field(default=1.0, gt=0, description="loss above which no step is taken; none: all are")
    initial: Literal["random", "right"] = Field(
        default="right", description="real images to start from: random ones, or such as an expert gets right"
    )
    soft_labels: bool = Field(
        default=True, description="learn soft labels too, from the mean logits of the experts that are right"
    )
    training: Training = Field(
        default=FLAT.model_copy(update={"epochs": 20}),
        description="how experts are trained: by GSAM; the last epoch says which images are right, and soft labels",
    )


class HardLabelled(DifficultyAligned):
    """Hyper-parameters of M-DATM: DATM for an evaluator with hard labels, class by class, and a rate of its own."""

    name: ClassVar[str] = "m-datm"

    syn_steps: int = Field(default=5, ge=1, description="inner steps of a student (N)")
    last_epoch: int = Field(
        default=5, ge=1, description="end of the epochs that a student starts from (T+), not among them; a narrow range"
    )
    range_start: int | None = Field(
        default=None, ge=1, description="that end at first, which then grows to last_epoch (T_0); none: no growth"
    )
    soft_labels: bool = Field(
        default=False, description="learn soft labels too, which the challenge's evaluator would not get to see"
    )
    lr_lr: float = Field(
        default=0.0, ge=0, description="SGD's rate for the student's learning rate; 0 leaves it, at the evaluator's"
    )
    lr_student: float = Field(
        default=0.01, gt=0, description="learning rate of a student (alpha); the challenge's evaluator has 0.01"
    )


class Tesla(TrajectoryMatching):
    """Hyper-parameters of TESLA: trajectory matching by its approximate gradient (see `unroll`)."""

    name: ClassVar[str] = "tesla"

    gradient: Literal["auto", "full", "adjoint", "truncated", "tesla"] = Field(
        default="tesla", description="how to differentiate through the steps, see `unroll`"
    )


class Matching:
    """Pixels, the student's learning rate and soft labels under way."""

    def __init__(
        self,
        config: TrajectoryMatching,
        source: Source,
        *,
        size: Size,
        form: InputForm,
        experts: Artefact,
        streams: Streams,
        device: torch.device,
    ) -> None:
        import torch

        from dd_core import selection, training
        from dd_core.experts import held

        self.config, self.source, self.form, self.experts = config, source, form, experts
        self.streams, self.device = streams, device
        self.counts = size.per_class(len(source.classes))
        self.labels = selection.labels_of(self.counts)
        self.members = selection.members_of(source, self.counts)
        self.strategy = resolve_strategy(config.augmentation, source.name)
        # its weights come from the experts: it says how an image becomes logits
        model = training.initialised(config.recipe, source.image_shape, len(self.counts), streams=streams)
        self.network = model.to(device).eval()
        self._trajectory = held(experts)
        start = self._initial_indices()
        self.pixels = form(source.take(start).to(device)).requires_grad_()
        self.average = None if config.ema is None else self.pixels.detach().clone()
        self.rate = torch.tensor(config.lr_student, device=device, requires_grad=True)
        groups: list[dict[str, Any]] = [
            {"params": [self.pixels], "lr": config.lr_img},
            {"params": [self.rate], "lr": config.lr_lr},
        ]
        self.soft = self._mean_logits().requires_grad_() if config.soft_labels else None
        if self.soft is not None:
            groups += [{"params": [self.soft], "lr": config.lr_label, "momentum": LABEL_MOMENTUM}]
        self.optimiser = torch.optim.SGD(groups, momentum=config.momentum)
        self.mode: Mode | None = None if config.gradient == "auto" else config.gradient
        self.reach = config.range_start or config.last_epoch  # T, as far as `range_below` has moved it
        self.mean_loss = UNMATCHED

    @property
    def learned(self) -> Tensors:
        """Pixels, rate, and the logits of soft labels where they are learned."""
        return (self.pixels, self.rate) if self.soft is None else (self.pixels, self.rate, self.soft)

    def step(self, index: int) -> dict[str, float]:
        """One student beside one expert, one step of all that is learned (none where the loss is too high)."""
        from dd_core import unroll

        config = self.config
        start, target = self._pair(index)
        inner, learned = self._inner(index), tuple(one.detach() for one in self.learned)
        if self.mode is None:
            self.mode = unroll.choose_mode(inner, config.syn_steps, start, learned)
        whole = sum((a - b).square().sum() for a, b in zip(start, target, strict=True))

        def distance(final: Tensors) -> Tensor:
            return sum((a - b).square().sum() for a, b in zip(final, target, strict=True)) / whole  # pyright: ignore[reportReturnType]

        found = unroll.unroll(inner, config.syn_steps, start, learned, distance, mode=self.mode, window=config.window)
        report = {"loss": found.loss.item(), "rate": self.rate.item()}
        if config.cosine_every and index % config.cosine_every == 0:
            exact = unroll.unroll(inner, config.syn_steps, start, learned, distance, mode="adjoint")
            report["cosine"] = unroll.cosine(found, exact)[0]
        for leaf, gradient in zip(self.learned, found.learned, strict=True):
            leaf.grad = gradient
        assert self.pixels.grad is not None
        if config.also is not None:
            report[config.also] = self._add_distance(index, start)
        require_finite(
            loss=report["loss"],
            gradient=self.pixels.grad.norm().item(),
            **{"gradient of the rate": found.learned[1].item()},
            **({} if self.soft is None else {"gradient of the labels": found.learned[2].norm().item()}),
        )
        taken = config.threshold is None or report["loss"] <= config.threshold
        if taken:
            self.optimiser.step()
        if self.average is not None:
            self.average.lerp_(self.pixels.detach(), 1 - (config.ema or 0.0))
        if self.rate.item() <= 0:
            raise Diverged(f"the student's learning rate became {self.rate.item():.2g}")
        if config.threshold is not None:
            report["taken"] = float(taken)
        if config.range_start is not None:
            report["range"] = float(self._range_end(index))
            self._move_range(report["loss"])
        return report

    # --- where students start and arrive ------------------------------------------------------------------------

    def _range_end(self, index: int) -> int:
        """T: the end of the epochs that a student starts from, at outer iteration `index`."""
        config = self.config
        if config.range_start is None or config.range_below is not None:
            return self.reach
        grown = (config.last_epoch - config.range_start) * index // config.range_growth
        return min(config.last_epoch, config.range_start + grown)

    def _move_range(self, loss: float) -> None:
        """Let the range grow by an epoch when what it has is matched, where it goes by the loss."""
        if self.config.range_below is None:
            return
        self.mean_loss = AVERAGED * self.mean_loss + (1 - AVERAGED) * loss
        if self.mean_loss < self.config.range_below and self.reach < self.config.last_epoch:
            self.reach, self.mean_loss = self.reach + 1, UNMATCHED

    def _pair(self, index: int) -> tuple[Tensors, Tensors]:
        """(expert_t, expert_{t+M}) as parameters: experts in shuffled order, t uniform in [T-, T)."""
        import torch

        turn, place = divmod(index, len(self.experts))
        order = torch.randperm(len(self.experts), generator=self.streams.generator("experts", turn))
        rows = self._trajectory(int(order[place]))
        choices = self._range_end(index) - self.config.first_epoch
        t = int(torch.randint(choices, (), generator=self.streams.generator("epoch", index)))
        t += self.config.first_epoch if self.config.keep == "all" else 0  # row 0 is the first epoch that is kept
        return self._parameters(rows[t]), self._parameters(rows[t + self.config.expert_epochs])

    def _parameters(self, flat: Tensor) -> Tensors:
        from dd_core.matching import parameters_of

        return parameters_of(self.network, flat.to(self.device))

    # --- the inner loop -------------------------------------------------------------------------------------------

    def _inner(self, index: int) -> Step:
        """theta - alpha grad CE over a mini-batch of the synthetic images under DSA."""
        import torch.nn.functional as F

        from dd_core import augment, unroll

        batches, labels = self._batches(index), self.labels.to(self.device)

        def loss(t: int, theta: Tensors, learned: Tensors) -> Tensor:
            rows, generator = batches[t], self.streams.generator("augmentation", index * self.config.syn_steps + t)
            images = augment.dsa(learned[0][rows], self.strategy, generator=generator)
            targets = labels[rows] if self.soft is None else learned[2][rows].softmax(1)
            return F.cross_entropy(unroll.apply(self.network, theta, images), targets)

        return unroll.sgd_step(loss, lambda t, learned: learned[1])

    def _batches(self, index: int) -> list[Tensor]:
        """Rows of each inner step: shuffled passes over the synthetic images."""
        import torch

        size = min(self.config.batch_syn or len(self.labels), len(self.labels))
        generator = self.streams.generator("batches", index)
        batches: list[Tensor] = []
        while len(batches) < self.config.syn_steps:
            batches += torch.randperm(len(self.labels), generator=generator).split(size)
        return [rows.to(self.device) for rows in batches[: self.config.syn_steps]]

    def _add_distance(self, index: int, start: Tensors) -> float:
        """Add the weighted gradient of another distance, at the weights `start`; returns the distance."""
        import torch

        from dd_core import augment, matching

        config = self.config
        with torch.no_grad():
            for parameter, value in zip(self.network.parameters(), start, strict=True):
                parameter.copy_(value)
        measure = matching.feature_distance if config.also == "features" else matching.gradient_distance
        total, gradients = 0.0, list["Tensor"]()
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
                for several in (self._real_batch(index, label), images)
            )
            distance = measure(self.network, real, synthetic, label)
            gradients += torch.autograd.grad(distance, images)
            total += distance.item()
        assert self.pixels.grad is not None
        self.pixels.grad = self.pixels.grad + config.also_weight * torch.cat(gradients)
        return total

    def _real_batch(self, index: int, label: int) -> Tensor:
        """Real images of a class."""
        import torch

        members = self.members[label]
        order = torch.randperm(len(members), generator=self.streams.generator(f"real-{label}", index))
        return self.form(self.source.take(members[order[: self.config.batch_real]]).to(self.device))

    # --- what experts say of real images ----------------------------------------------------------------------------

    def _initial_indices(self) -> Tensor:
        """Real images to start from."""
        from dd_core import matching, selection

        if self.config.initial == "random":
            return selection.random_indices(self.source, self.counts, streams=self.streams, stream="initial-images")

        def right(expert: int) -> Tensor:
            return matching.right_of(self.network, self._trajectory(expert)[-1], self.source, self.form, self.device)

        return matching.right_indices(self.source, self.counts, right, len(self.experts), streams=self.streams)

    def _mean_logits(self) -> Tensor:
        """(N, K) mean logits of the experts that are right about an initial image, at their last epoch."""
        import torch

        from dd_core import matching

        pixels = self.pixels.detach()
        each = [
            matching.logits_of(self.network, self._trajectory(expert)[-1], pixels)
            for expert in range(len(self.experts))
        ]
        return matching.mean_logits(torch.stack(each), self.labels.to(self.device))

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that is learned, momentum, the gradient mode that `auto` chose, and how far the range has grown."""
        return {
            "learned": [one.detach().clone() for one in self.learned],
            "average": None if self.average is None else self.average.clone(),
            "optimiser": self.optimiser.state_dict(),
            "mode": self.mode,
            "reach": self.reach,
            "mean_loss": self.mean_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        import torch

        with torch.no_grad():
            for one, value in zip(self.learned, state["learned"], strict=True):
                one.copy_(value)
            if self.average is not None:
                self.average.copy_(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.mode, self.reach, self.mean_loss = state["mode"], state["reach"], state["mean_loss"]

    def export(self) -> DistilledSet:
        """The (averaged) pixels, float32 as networks see them, the learned rate in the recipe, soft labels' logits."""
        recipe = self.config.recipe.model_copy(update={"learning_rate": self.rate.item()})
        manifest = Manifest(
            classes=self.source.classes,
            pixels=Pixels(
                space="whitened" if self.config.zca else "normalised", mean=self.form.mean, std=self.form.std
            ),
            targets="none" if self.soft is None else "logits",
            recipe=recipe.for_source(self.source.name),
        )
        targets = None if self.soft is None else self.soft.detach().cpu().numpy().copy()
        images = (self.pixels.detach() if self.average is None else self.average).cpu().numpy().copy()
        return DistilledSet(images, self.labels.numpy(), manifest, targets, self.form.whitening)
