"""`mtt`, `ftd`, `tesla`: matching training trajectories (Cazenavette, Wang, Torralba, Efros and Zhu 2022).

Experts were trained on the real images, and their weights are known after every epoch. A student starts where an expert
was, learns from the synthetic images for N steps, and should come to where the expert was M epochs later (equation 2):

    theta_0 = expert_t,   theta_{i+1} = theta_i - alpha grad l(A(x), theta_i),   i = 0 .. N-1

    minimise over x and alpha:   || theta_N - expert_{t+M} ||^2 / || expert_t - expert_{t+M} ||^2

The start t is uniform in [T-, T+), A is the augmentation (DSA), drawn anew at every inner step, and alpha, the
student's learning rate, is what networks are to be trained with on the set.

`ftd` (Du et al. 2023) has flat experts and an average of the pixels over the outer iterations; `tesla` (Cui et al.
2023) takes the gradient by its authors' approximation, in memory that does not grow with N.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dd_core.augment_names import parse_strategy, resolve_strategy
from dd_core.config import checked
from dd_core.distilled import DISTRIBUTIONS, DistilledSet, Manifest, Pixels, Recipe, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import Diverged, require_finite
from dd_core.expert_training import Sharpness, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.artefacts import Artefact, ArtefactSpec
    from dd_core.images import Source
    from dd_core.streams import Streams
    from dd_core.unroll import Mode, Step, Tensors


class TrajectoryMatching(MethodConfig):
    """Hyper-parameters of matching training trajectories; experts and students are the recipe's network."""

    name: ClassVar[str] = "mtt"

    steps: int = Field(default=300, ge=0, description="outer iterations (paper: 5000)")
    syn_steps: int = Field(default=20, ge=1, description="inner steps of a student (N)")
    expert_epochs: int = Field(default=2, ge=1, description="epochs of an expert that they are to make up for (M)")
    first_epoch: int = Field(default=0, ge=0, description="first epoch that a student starts from (T-)")
    last_epoch: int = Field(
        default=10, ge=1, description="end of the epochs that a student starts from (T+), not among them"
    )
    batch_syn: int | None = Field(default=None, ge=1, description="synthetic images in an inner step; none: all")
    lr_img: float = Field(default=100.0, gt=0, description="SGD's rate for the pixels")
    lr_lr: float = Field(default=1e-6, ge=0, description="SGD's rate for the student's learning rate; 0 leaves it")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of both")
    ema: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="decay of the average of the pixels that the set is made of; none: the last",
    )
    lr_student: float = Field(default=0.01, gt=0, description="initial learning rate of a student (alpha)")
    augmentation: str = Field(default="auto", description="DSA strategy (A); auto: all, without flip for digits")
    gradient: Literal["auto", "full", "adjoint", "truncated", "tesla"] = Field(
        default="auto", description="how to differentiate through the steps, see `unroll`; auto: full while it fits"
    )
    window: int | None = Field(default=None, ge=1, description="last steps that 'truncated' looks at")
    experts: int = Field(default=10, ge=1, description="experts (paper: 100)")
    experts_seed: int = Field(default=0, ge=0, description="seed of the experts")
    training: Training = Field(
        default=Training(augmentation="auto"), description="how experts are trained; what is matched is kept"
    )
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
        if self.training.first != 0 or self.training.last is not None:
            raise ValueError("training.first and training.last follow from first_epoch, last_epoch and expert_epochs")
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(f"recipe.initialisation: {' or '.join(map(repr, DISTRIBUTIONS))}")
        if self.first_epoch >= self.last_epoch:
            raise ValueError(
                f"students start from no epoch: first_epoch {self.first_epoch}, last_epoch {self.last_epoch}"
            )
        if self.last_epoch - 1 + self.expert_epochs > self.training.epochs:
            raise ValueError(
                f"last_epoch {self.last_epoch} and expert_epochs {self.expert_epochs} need experts of "
                f"{self.last_epoch - 1 + self.expert_epochs} epochs; training.epochs is {self.training.epochs}"
            )
        if self.gradient == "truncated" and (self.window is None or self.window > self.syn_steps):
            raise ValueError(f"gradient 'truncated' needs a window from 1 to {self.syn_steps} steps, not {self.window}")
        return self

    def needs(self, source: Source) -> tuple[ArtefactSpec, ...]:
        """The experts, of the epochs that are matched."""
        from dd_core.experts import Experts

        kept = {"first": self.first_epoch, "last": self.last_epoch - 1 + self.expert_epochs}
        strategy = resolve_strategy(self.training.augmentation, source.name)
        return (
            Experts(
                source=source.fingerprint(),
                network=self.recipe.network,
                initialisation=self.recipe.initialisation,
                image_shape=source.image_shape,
                classes=len(source.classes),
                count=self.experts,
                seed=self.experts_seed,
                training=self.training.model_copy(update={**kept, "augmentation": strategy}),
            ),
        )

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` before experts are trained for nothing.

        Where a class has too few images to start from, and for a network whose outputs depend on more than its
        arguments.
        """
        from dd_core.selection import members_of
        from dd_core.training import require_pure

        members_of(source, size.per_class(len(source.classes)))
        require_pure(self.recipe, source.image_shape, len(source.classes), method=self.name)

    def build(
        self,
        *,
        source: Source,
        size: Size,
        artefacts: Mapping[str, Artefact],
        streams: Streams,
        device: torch.device,
    ) -> Matching:
        """Start from random real images; raises what `check` raises."""
        self.check(source, size)
        (spec,) = self.needs(source)
        return Matching(self, source, size=size, experts=artefacts[spec.digest()], streams=streams, device=device)


class FlatTrajectoryMatching(TrajectoryMatching):
    """Hyper-parameters of FTD: trajectory matching along flat experts, with averaged pixels."""

    name: ClassVar[str] = "ftd"

    ema: float | None = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="decay of the average of the pixels that the set is made of (paper: 0.999 to 0.9999, 5000 steps)",
    )
    training: Training = Field(
        default=Training(augmentation="auto", sharpness=Sharpness()),
        description="how experts are trained: by GSAM; what is matched is kept",
    )


class Tesla(TrajectoryMatching):
    """Hyper-parameters of TESLA: trajectory matching by its approximate gradient (see `unroll`)."""

    name: ClassVar[str] = "tesla"

    gradient: Literal["auto", "full", "adjoint", "truncated", "tesla"] = Field(
        default="tesla", description="how to differentiate through the steps, see `unroll`"
    )


class Matching:
    """Pixels and the student's learning rate under way."""

    def __init__(
        self,
        config: TrajectoryMatching,
        source: Source,
        *,
        size: Size,
        experts: Artefact,
        streams: Streams,
        device: torch.device,
    ) -> None:
        import torch

        from dd_core import images, selection, training

        self.config, self.source, self.experts = config, source, experts
        self.streams, self.device = streams, device
        counts = size.per_class(len(source.classes))
        self.labels = selection.labels_of(counts)
        self.mean, self.std = images.channel_stats(source)
        self.strategy = resolve_strategy(config.augmentation, source.name)
        chosen = selection.random_indices(source, counts, streams=streams, stream="initial-images")
        self.pixels = images.normalise(source.take(chosen).to(device), self.mean, self.std).requires_grad_()
        self.average = self.pixels.detach().clone()
        self.rate = torch.tensor(config.lr_student, device=device, requires_grad=True)
        groups = [{"params": [self.pixels], "lr": config.lr_img}, {"params": [self.rate], "lr": config.lr_lr}]
        self.optimiser = torch.optim.SGD(groups, momentum=config.momentum)
        # its weights are never used: it says how an image becomes logits
        self.network = training.initialised(config.recipe, source.image_shape, len(counts), streams=streams).to(device)
        self.mode: Mode | None = None if config.gradient == "auto" else config.gradient

    def step(self, index: int) -> dict[str, float]:
        """One student beside one expert, one step of the pixels and of the student's learning rate."""
        from dd_core import unroll

        start, target = self._pair(index)
        inner, learned = self._inner(index), (self.pixels.detach(), self.rate.detach())
        if self.mode is None:
            self.mode = unroll.choose_mode(inner, self.config.syn_steps, start, learned)
        whole = sum((a - b).square().sum() for a, b in zip(start, target, strict=True))

        def distance(final: Tensors) -> Tensor:
            return sum((a - b).square().sum() for a, b in zip(final, target, strict=True)) / whole  # pyright: ignore[reportReturnType]

        found = unroll.unroll(
            inner, self.config.syn_steps, start, learned, distance, mode=self.mode, window=self.config.window
        )
        self.pixels.grad, self.rate.grad = found.learned
        loss = found.loss.item()
        require_finite(
            loss=loss, gradient=self.pixels.grad.norm().item(), **{"gradient of the rate": self.rate.grad.item()}
        )
        self.optimiser.step()
        self.average.lerp_(self.pixels.detach(), 1 - (self.config.ema or 0.0))
        if self.rate.item() <= 0:
            raise Diverged(f"the student's learning rate became {self.rate.item():.2g}")
        return {"loss": loss, "rate": self.rate.item()}

    def _pair(self, index: int) -> tuple[Tensors, Tensors]:
        """(expert_t, expert_{t+M}) as parameters: experts in shuffled order, t uniform in [T-, T+)."""
        import torch

        from dd_core.experts import trajectory

        turn, place = divmod(index, len(self.experts))
        order = torch.randperm(len(self.experts), generator=self.streams.generator("experts", turn))
        rows = trajectory(self.experts, int(order[place])).to(self.device)
        choices = self.config.last_epoch - self.config.first_epoch
        t = int(torch.randint(choices, (), generator=self.streams.generator("epoch", index)))
        return self._parameters(rows[t]), self._parameters(rows[t + self.config.expert_epochs])

    def _parameters(self, flat: Tensor) -> Tensors:
        shapes = [parameter.shape for parameter in self.network.parameters()]
        parts = flat.split([shape.numel() for shape in shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))

    def _inner(self, index: int) -> Step:
        """theta - alpha grad CE over a mini-batch of the synthetic images under DSA."""
        import torch.nn.functional as F

        from dd_core import augment, unroll

        batches, labels = self._batches(index), self.labels.to(self.device)

        def loss(t: int, theta: Tensors, learned: Tensors) -> Tensor:
            rows, generator = batches[t], self.streams.generator("augmentation", index * self.config.syn_steps + t)
            images = augment.dsa(learned[0][rows], self.strategy, generator=generator)
            return F.cross_entropy(unroll.apply(self.network, theta, images), labels[rows])

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

    def state_dict(self) -> dict[str, Any]:
        """Pixels, the learned rate, momentum, and the gradient mode that `auto` chose."""
        return {
            "pixels": self.pixels.detach().clone(),
            "average": self.average.clone(),
            "rate": self.rate.detach().clone(),
            "optimiser": self.optimiser.state_dict(),
            "mode": self.mode,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        import torch

        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
            self.average.copy_(state["average"])
            self.rate.copy_(state["rate"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.mode = state["mode"]

    def export(self) -> DistilledSet:
        """The (averaged) pixels, float32 in normalised space, with the learned rate in the recipe."""
        recipe = self.config.recipe.model_copy(update={"learning_rate": self.rate.item()})
        manifest = Manifest(
            classes=self.source.classes,
            pixels=Pixels(space="normalised", mean=self.mean, std=self.std),
            recipe=recipe.for_source(self.source.name),
        )
        return DistilledSet(self.average.cpu().numpy().copy(), self.labels.numpy(), manifest)
