"""`dataset-distillation`: learned images and learning rates (Wang, Zhu, Torralba and Efros 2018, algorithm 1).

A network takes a few steps of gradient descent on the synthetic images, each step with a learning rate of its
own, and the loss of where it arrives on *real* images is what images and rates descend on, through all steps:

    theta_{t+1} = theta_t - eta_t grad l(x_t, theta_t)        minimise over x, eta:  E_theta_0  l(x_real, theta_T)

`start` says what theta_0 is. `random`: drawn anew at every outer iteration, so that the set is good for any draw from
that distribution. `fixed`: one draw, and the set is good for that network only, whose digest is in the recipe. The
pre-trained ones start from networks trained on real images: a pool to draw from, or one of them (section 3.3; where
those images are another data set's, the set adapts a network to the one that is distilled). `attack` is the
paper's section 3.5, and not for use: networks are to take one class for another.

The authors' code has Adam (0.5, 0.999), noise to start from, rates kept positive by softplus and halved steps; its
defaults are 10 blocks, 3 epochs, alpha 0.01 and eta_0 0.02 on LeNet. Ours suit one image a class of small images, and
were chosen on a split of the digits' training images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError, require_finite, unknown_name
from dd_core.recipe import DISTRIBUTIONS, Pretraining, Recipe, ScheduledStep, StartingPool
from dd_core.system.budget import BATCH_BYTES, BatchBytes, Footprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.artefacts import Artefact, ArtefactSpec
    from dd_core.images import Source
    from dd_core.streams import Streams
    from dd_core.unroll import Mode, Step, Tensors, Unrolled


STATES = 64  # networks of a pool that are kept in memory

Start = Literal["random", "fixed", "random-pretrained", "fixed-pretrained"]


class DatasetDistillationConfig(MethodConfig):
    """Hyper-parameters of dataset distillation; the recipe's network is the one that learns (theta)."""

    name: ClassVar[str] = "dataset-distillation"

    steps: int = Field(default=1000, ge=0, description="outer iterations")
    blocks: int = Field(default=1, ge=1, description="different blocks of images, a step each; divides the ipc")
    epochs: int = Field(default=10, ge=1, description="passes over the blocks; each step has its own rate (eta)")
    networks: int = Field(default=1, ge=1, description="initialisations averaged in an outer iteration")
    batch_real: int = Field(default=1024, ge=1, description="real images in an outer iteration")
    batch_bytes: BatchBytes = Field(
        default=BATCH_BYTES,
        description="bytes of images and activations that a batch of real images may take in the network; beyond them "
        "the outer loss is computed in parts",
    )
    lr_img: float = Field(default=0.02, gt=0, description="Adam's rate for pixels (alpha)")
    lr_rates: float | None = Field(
        default=None, gt=0, description="Adam's rate for raw rates; none: lr_img (paper), which can make them overshoot"
    )
    decay_every: int = Field(
        default=0, ge=0, description="outer iterations between halvings of both; 0: a quarter of steps"
    )
    clip: float | None = Field(
        default=None,
        gt=0,
        description="largest norm of the gradients of pixels and of raw rates, each cut to it before Adam; some random "
        "networks have a hundred times the usual one (paper: none)",
    )
    lr_inner: float = Field(default=0.3, gt=0, description="initial learning rate of every inner step (eta_0)")
    gradient: Literal["auto", "full", "adjoint", "truncated"] = Field(
        default="auto",
        description="how to differentiate through the steps, see `unroll`; auto: full while the graphs fit into "
        "half of the memory that is free at the first step (full and adjoint differ by rounding)",
    )
    window: int | None = Field(default=None, ge=1, description="last steps that 'truncated' looks at")
    start: Start = Field(
        default="random",
        description="where networks start (theta_0): random, drawn anew in each outer iteration; fixed, one network "
        "and no other; random-pretrained, any of a pool of pre-trained ones; fixed-pretrained, one of those",
    )
    start_seed: int = Field(default=0, ge=0, description="of the starting weights, unless they are random")
    pool: int = Field(default=20, ge=1, description="pre-trained networks to draw from (paper: 200 to 2000)")
    pretraining: Pretraining = Field(default=Pretraining(), description="how networks are pre-trained")
    attack: tuple[str, str] | None = Field(
        default=None, description="the paper's attack experiment: (class, class that networks are to take it for)"
    )
    recipe: Recipe = Field(
        default=Recipe(network="convnet-1-w64-nonorm", initialisation="xavier"),
        description="the network, and how it is initialised; the learned order and rates are filled in",
    )

    @field_validator("recipe")
    @classmethod
    def _recipe_names_a_distribution(cls, recipe: Recipe) -> Recipe:
        if recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError("initialisation: 'default' or 'xavier'; `start` says what is fixed or pre-trained")
        return recipe

    def starting_weights(self, source: Source) -> StartingPool | None:
        """The pool that theta_0 comes from; None where it is drawn anew all the time."""
        if self.start == "random":
            return None
        from dd_core.training.starts import pretrained_on

        how = self.pretraining if self.pretraining.source else pretrained_on(source, self.pretraining)
        return StartingPool(
            distribution="xavier" if self.recipe.initialisation == "xavier" else "default",
            count=self.pool if self.start == "random-pretrained" else 1,
            seed=self.start_seed,
            pretraining=None if self.start == "fixed" else how,
        )

    def needs(self, source: Source) -> tuple[ArtefactSpec, ...]:
        """The starting weights, unless they are drawn anew all the time."""
        from dd_core.training.starts import spec_of

        weights = self.starting_weights(source)
        return () if weights is None else (spec_of(self.recipe, source.image_shape, len(source.classes), weights),)

    def pretrained_on(self, other: Source) -> MethodConfig:
        """The same, adapting networks that are pre-trained on `other`; raises `UserError` where `start` has none."""
        if not self.start.endswith("pretrained"):
            raise UserError(f"start '{self.start}' pre-trains no networks; random-pretrained and fixed-pretrained do")
        from dd_core.training.starts import pretrained_on

        return self.model_copy(update={"pretraining": pretrained_on(other, self.pretraining)})

    @property
    def starts(self) -> Literal["fresh", "pretrained", "one"]:
        """Where networks start that its sets are for."""
        starts: dict[str, Literal["fresh", "pretrained", "one"]] = {
            "random": "fresh",
            "random-pretrained": "pretrained",
        }
        return starts.get(self.start, "one")

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for what would fail, or silently mislead, in the loop.

        Blocks that do not divide the images of each class, a window that is not within the steps, an attack on a class
        that is none, and a network whose outputs depend on more than its arguments.
        """
        from dd_core.selection import labels_of
        from dd_core.training import block_rows, require_pure

        block_rows(labels_of(size.per_class(len(source.classes))), self.blocks)
        self.attacked(source)
        inner = self.blocks * self.epochs
        if self.gradient == "truncated" and (self.window is None or self.window > inner):
            raise UserError(f"gradient 'truncated' needs a window from 1 to {inner} steps, not {self.window}")
        require_pure(self.recipe, source.image_shape, len(source.classes), method=self.name)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The inner loop over the synthetic images of a block, and the outer loss on real ones within its budget.

        Both are held together: the outer loss is computed from the inner loop's last weights, whose graph waits for it.
        """
        from dd_core.training.estimates import unrolled_bytes

        classes, images = len(source.classes), sum(size.per_class(len(source.classes))) // self.blocks
        steps = self.window if self.gradient == "truncated" else None
        inner = unrolled_bytes(
            self.recipe,
            source.image_shape,
            classes,
            images=images,
            steps=steps or self.blocks * self.epochs,
            mode="adjoint" if self.gradient == "auto" else self.gradient,
            device=device,
        )
        cost = self.image_bytes(source, device)
        outer = cost * self.real_at_once(source, device)
        whole = 16 * images * self.blocks * prod(source.image_shape)  # pixels, gradient, Adam's two moments
        graph = "network" if self.gradient in ("auto", "adjoint") else "network, or gradient 'adjoint',"
        return Footprint(inner + outer + whole, ("batch_bytes" if outer > inner else graph,))

    def real_at_once(self, source: Source, device: torch.device) -> int:
        """Real images that go through the network together in the outer loss."""
        from dd_core.system.footprint import images_at_once

        most = min(self.batch_real, len(source))
        return images_at_once(self.image_bytes(source, device), budget=self.batch_bytes, most=most)

    def image_bytes(self, source: Source, device: torch.device) -> int:
        """Bytes that a real image takes in the outer loss."""
        from dd_core.training import estimates

        plain = self.recipe.model_copy(update={"augmentation": "none"})
        return estimates.image_bytes(plain, source.image_shape, len(source.classes), device)

    def attacked(self, source: Source) -> tuple[int, int] | None:
        """The labels of the attack's two classes; raises `UserError` where they are not two classes of `source`."""
        if self.attack is None:
            return None
        for name in self.attack:
            if name not in source.classes:
                raise unknown_name("class", name, source.classes)
        victim, target = map(source.classes.index, self.attack)
        if victim == target:
            raise UserError(f"attack: '{self.attack[0]}' is not to be taken for itself; name two classes")
        return victim, target

    def build(
        self,
        *,
        source: Source,
        size: Size,
        artefacts: Mapping[str, Artefact],
        streams: Streams,
        device: torch.device,
    ) -> DatasetDistillationDistiller:
        """Start from noise; raises what `check` raises."""
        self.check(source, size)
        pool = next((artefacts[spec.digest()] for spec in self.needs(source)), None)
        return DatasetDistillationDistiller(self, source, size=size, pool=pool, streams=streams, device=device)


class DatasetDistillationDistiller:
    """Images and rates under way."""

    def __init__(
        self,
        config: DatasetDistillationConfig,
        source: Source,
        *,
        size: Size,
        pool: Artefact | None,
        streams: Streams,
        device: torch.device,
    ) -> None:
        import torch

        from dd_core.images import channel_stats, require_labels
        from dd_core.selection import labels_of
        from dd_core.training import block_rows

        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.pool = pool
        self.goals = require_labels(source)  # what networks are to make of the real images
        if (attacked := config.attacked(source)) is not None:
            self.goals = self.goals.where(self.goals != attacked[0], attacked[1])
        self.mean, self.std = channel_stats(source)
        self.labels = labels_of(size.per_class(len(source.classes)))
        self.rows = block_rows(self.labels, config.blocks)
        shape = (len(self.labels), *source.image_shape)
        noise = torch.randn(shape, generator=streams.generator("initial-images"))
        raw = config.lr_inner + math.log(-math.expm1(-config.lr_inner))  # softplus(raw) is the rate
        self.pixels = noise.to(device).requires_grad_()
        self.raw_rates = torch.full((config.blocks * config.epochs,), raw, device=device, requires_grad=True)
        groups = [{"params": [self.pixels]}, {"params": [self.raw_rates]}]
        self.optimiser = torch.optim.Adam(groups, lr=config.lr_img, betas=(0.5, 0.999))
        self.mode: Mode | None = None if config.gradient == "auto" else config.gradient
        self.real_at_once = config.real_at_once(source, device)
        self._of_pool = lru_cache(maxsize=STATES)(self._from_pool)

    def step(self, index: int) -> dict[str, float]:
        """New networks, one unrolled inner loop each, one Adam step of images and rates."""
        import torch

        results = [self._unrolled(index, position) for position in range(self.config.networks)]
        for position, leaf in enumerate((self.pixels, self.raw_rates)):
            leaf.grad = torch.stack([one.learned[position] for one in results]).mean(0)
        loss = torch.stack([one.loss for one in results]).mean().item()
        assert self.pixels.grad is not None
        assert self.raw_rates.grad is not None
        norms = {"gradient": self.pixels.grad.norm().item(), "gradient of rates": self.raw_rates.grad.norm().item()}
        require_finite(loss=loss, **norms)
        if self.config.clip is not None:
            for leaf in (self.pixels, self.raw_rates):
                torch.nn.utils.clip_grad_norm_(leaf, self.config.clip)
        every = self.config.decay_every or max(1, self.config.steps // 4)
        rates = (self.config.lr_img, self.config.lr_rates or self.config.lr_img)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 ** (index // every)
        self.optimiser.step()
        return {"loss": loss, "mean_rate": self._rates().mean().item()}

    def _unrolled(self, index: int, position: int) -> Unrolled:
        """Loss and gradients for one initialisation."""
        from dd_core import unroll

        draw = index * self.config.networks + position
        network = self._network(draw)
        theta = tuple(parameter.detach() for parameter in network.parameters())
        step, learned = self._inner(network), (self.pixels.detach(), self.raw_rates.detach())
        if self.mode is None:
            self.mode = unroll.choose_mode(step, len(self.raw_rates), theta, learned)
        rows = self._real_rows(draw)

        def outer(final: Tensors) -> Tensor:
            return self._real_loss(network, rows, final)

        return unroll.unroll(
            step, len(self.raw_rates), theta, learned, outer, mode=self.mode, window=self.config.window
        )

    def _network(self, draw: int) -> torch.nn.Module:
        """The network of one draw (theta_0): a new one, or one of the pool, which is not to be changed."""
        import torch

        streams = self.streams.child("network", draw)
        if self.pool is not None:
            one = len(self.pool) == 1
            return self._of_pool(
                0 if one else int(torch.randint(len(self.pool), (), generator=streams.generator("pool")))
            )
        return self._initialised(streams=streams).to(self.device)

    def _from_pool(self, index: int) -> torch.nn.Module:
        return self._initialised(streams=self.streams, start=self.pool, index=index).to(self.device)

    def _initialised(self, **start: Any) -> torch.nn.Module:
        from dd_core.training import initialised

        return initialised(self.config.recipe, self.source.image_shape, len(self.source.classes), **start)

    def _inner(self, network: torch.nn.Module) -> Step:
        """theta - softplus(raw_t) * grad CE over block t mod blocks."""
        import torch.nn.functional as F

        from dd_core.unroll import apply, sgd_step

        labels = self.labels.to(self.device)

        def loss(t: int, theta: Tensors, learned: Tensors) -> Tensor:
            rows = self.rows[t % self.config.blocks]
            return F.cross_entropy(apply(network, theta, learned[0][rows]), labels[rows])

        return sgd_step(loss, lambda t, learned: F.softplus(learned[1][t]))

    def _real_rows(self, draw: int) -> Tensor:
        """Which real images are the mini-batch of one draw."""
        import torch

        generator = self.streams.generator("real", draw)
        return torch.randperm(len(self.source), generator=generator)[: self.config.batch_real]

    def _real_loss(self, network: torch.nn.Module, rows: Tensor, final: Tensors) -> Tensor:
        """The mean loss on real images; of several parts, each is computed again when its gradient is due."""
        import torch
        from torch.utils.checkpoint import checkpoint

        parts = rows.split(self.real_at_once)
        if len(parts) == 1:
            return self._part_loss(network, rows, *final)
        losses = [
            checkpoint(self._part_loss, network, part, *final, use_reentrant=False, preserve_rng_state=False)
            for part in parts
        ]
        shares = [len(part) / len(rows) for part in parts]
        return torch.stack([share * loss for share, loss in zip(shares, losses, strict=True)]).sum()

    def _part_loss(self, network: torch.nn.Module, rows: Tensor, *final: Tensor) -> Tensor:
        """The mean loss on some real images, of what networks are to make of these."""
        import torch.nn.functional as F

        from dd_core import unroll
        from dd_core.images import normalise

        images = normalise(self.source.take(rows).to(self.device), self.mean, self.std)
        return F.cross_entropy(unroll.apply(network, final, images), self.goals[rows].to(self.device))

    def _rates(self) -> Tensor:
        import torch.nn.functional as F

        return F.softplus(self.raw_rates.detach())

    def state_dict(self) -> dict[str, Any]:
        """Images, rates, Adam's moments, and the gradient mode that `auto` chose."""
        return {
            "pixels": self.pixels.detach().clone(),
            "raw_rates": self.raw_rates.detach().clone(),
            "optimiser": self.optimiser.state_dict(),
            "mode": self.mode,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        import torch

        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
            self.raw_rates.copy_(state["raw_rates"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.mode = state["mode"]

    def export(self) -> DistilledSet:
        """The images, float32 in normalised space, with the order and the rates in the recipe."""
        blocks = self.config.blocks
        order = tuple(
            ScheduledStep(epoch=t // blocks, step=t % blocks, learning_rate=rate)
            for t, rate in enumerate(self._rates().tolist())
        )
        manifest = Manifest(
            classes=self.source.classes,
            pixels=Pixels(space="normalised", mean=self.mean, std=self.std),
            recipe=self.config.recipe.model_copy(update={"steps": order, **self._start()}).for_source(self.source.name),
            attack=self.config.attack,
        )
        return DistilledSet(self.pixels.detach().cpu().numpy().copy(), self.labels.numpy(), manifest)

    def _start(self) -> dict[str, Any]:
        """Where networks start that train on the set, as fields of its recipe."""
        if self.pool is None:
            return {}
        from dd_core.training.starts import identity_of

        where = "pretrained" if self.config.start == "random-pretrained" else identity_of(self.pool)
        return {"initialisation": where, "weights": self.config.starting_weights(self.source)}
