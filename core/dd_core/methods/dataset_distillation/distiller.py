"""The loop of dataset distillation (algorithm 1): unrolled inner steps, and an outer loss on real images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dd_core import selection, training, unroll
from dd_core.distilled import DistilledSet
from dd_core.distiller import Context
from dd_core.errors import require_finite
from dd_core.images import InputForm, require_labels
from dd_core.methods.dataset_distillation.config import POOL, DatasetDistillationConfig
from dd_core.methods.dataset_distillation.planning import real_at_once
from dd_core.recipe import ScheduledStep
from dd_core.synthetic import Synthetic, initial_noise
from dd_core.training.starts import identity_of
from dd_core.unroll import InnerSteps, Mode, Tensors, Unrolled

NETWORKS_KEPT = 64  # networks of a pool that are kept in memory


class DatasetDistillationDistiller:
    """Synthetic images and inner learning rates while they are learned."""

    def __init__(self, config: DatasetDistillationConfig, context: Context) -> None:
        source, streams, device = context.source, context.streams, context.device
        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.pool = context.artefacts.get(POOL)
        self.goals = require_labels(source)  # the label that a network should give each real image
        if (attacked := config.attacked(source)) is not None:
            self.goals = self.goals.where(self.goals != attacked[0], attacked[1])
        self.form = InputForm.of(source)
        labels, clamp = selection.labels_of(context.counts), "raw" if config.clamp else "none"
        noise = initial_noise(len(labels), source.image_shape, streams=streams).to(device)
        self.images = Synthetic(noise, labels, self.form, formation=config.formation, clamp=clamp)
        self.seen_labels = self.images.seen_labels.to(device)
        self.rows = training.block_rows(self.images.seen_labels, config.blocks)
        raw = config.lr_inner + math.log(-math.expm1(-config.lr_inner))  # softplus(raw) is the rate
        self.pixels = self.images.pixels
        self.raw_rates = torch.full((config.blocks * config.epochs,), raw, device=device, requires_grad=True)
        groups = [{"params": [self.pixels]}, {"params": [self.raw_rates]}]
        self.optimiser = torch.optim.Adam(groups, lr=config.lr_img, betas=(0.5, 0.999))
        self.mode: Mode | None = None if config.gradient == "auto" else config.gradient
        # only the architecture is used: all weights are arguments
        self.architecture = self._initialised(streams=streams).to(device)
        how = unroll.how_to_step(config.gradient, device, asked=config.compile)
        self.inner_steps = InnerSteps(self._loss, how, message=context.message)
        self.real_at_once = real_at_once(config, source, device)
        self._of_pool = lru_cache(maxsize=NETWORKS_KEPT)(self._from_pool)

    @property
    def inner_steps_taken(self) -> str | None:
        """See `distiller.Compiling`."""
        return self.inner_steps.taken

    def step(self, index: int) -> dict[str, float]:
        """One outer iteration: an unrolled inner loop of each network, then one Adam step of images and rates."""
        results = [self._unrolled(index, position) for position in range(self.config.networks)]
        for position, leaf in enumerate((self.pixels, self.raw_rates)):
            leaf.grad = torch.stack([result.learned[position] for result in results]).mean(0)
        loss = torch.stack([result.loss for result in results]).mean().item()
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
        self.images.updated()
        return {"loss": loss, "mean_rate": self._rates().mean().item()}

    def _unrolled(self, index: int, position: int) -> Unrolled:
        """Loss and gradients for one initialisation."""
        draw = index * self.config.networks + position
        network = self._network(draw)
        theta = tuple(parameter.detach() for parameter in network.parameters())
        step, learned = self.inner_steps.step(self._seen), (self.pixels.detach(), self.raw_rates.detach())
        if self.mode is None:
            self.mode = unroll.choose_mode(step, len(self.raw_rates), theta, learned)
        rows = self._real_rows(draw)

        def outer(final: Tensors) -> Tensor:
            return self._real_loss(network, rows, final)

        return unroll.unroll(
            step, len(self.raw_rates), theta, learned, outer, mode=self.mode, window=self.config.window
        )

    def _network(self, draw: int) -> torch.nn.Module:
        """The network of one draw (theta_0): a new one, or one of the pool, which callers must not change."""
        streams = self.streams.child("network", draw)
        if self.pool is not None:
            if len(self.pool) == 1:
                return self._of_pool(0)
            return self._of_pool(int(torch.randint(len(self.pool), (), generator=streams.generator("pool"))))
        return self._initialised(streams=streams).to(self.device)

    def _from_pool(self, index: int) -> torch.nn.Module:
        return self._initialised(streams=self.streams, start=self.pool, index=index).to(self.device)

    def _initialised(self, **start: Any) -> torch.nn.Module:
        return training.initialised(self.config.recipe, self.source.image_shape, len(self.source.classes), **start)

    def _seen(self, t: int, learned: Tensors) -> Tensors:
        """What inner step t reads: the images of block t mod blocks, their labels, and the rate softplus(raw_t)."""
        rows = self.rows[t % self.config.blocks]
        return self.images.decode(learned[0])[rows], self.seen_labels[rows], F.softplus(learned[1][t])

    def _loss(self, theta: Tensors, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss."""
        return F.cross_entropy(unroll.apply(self.architecture, theta, images), targets)

    def _real_rows(self, draw: int) -> Tensor:
        """Which real images are the mini-batch of one draw."""
        generator = self.streams.generator("real", draw)
        return torch.randperm(len(self.source), generator=generator)[: self.config.batch_real]

    def _real_loss(self, network: torch.nn.Module, rows: Tensor, final: Tensors) -> Tensor:
        """The mean loss on the real images `rows`; with several parts, each is computed again in the backward pass."""
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
        """The mean cross-entropy on the real images `rows`, with `goals` as labels."""
        images = self.form(self.source.take(rows).to(self.device, non_blocking=True))
        goals = self.goals[rows].to(self.device, non_blocking=True)
        return F.cross_entropy(unroll.apply(network, final, images), goals)

    def _rates(self) -> Tensor:
        return F.softplus(self.raw_rates.detach())

    def state_dict(self) -> dict[str, Any]:
        """Images, rates, Adam's moments, and how gradients are computed."""
        return {
            **self.images.state_dict(),
            "raw_rates": self.raw_rates.detach().clone(),
            "optimiser": self.optimiser.state_dict(),
            "mode": self.mode,
            **self.inner_steps.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.images.load_state_dict(state)
        with torch.no_grad():
            self.raw_rates.copy_(state["raw_rates"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.mode = state["mode"]
        self.inner_steps.load_state_dict(state)

    def export(self) -> DistilledSet:
        """The images, float32 in normalised space, with the order and rates of the inner steps in the recipe."""
        blocks = self.config.blocks
        order = tuple(
            ScheduledStep(epoch=t // blocks, step=t % blocks, learning_rate=rate)
            for t, rate in enumerate(self._rates().tolist())
        )
        recipe = self.config.recipe.model_copy(update={"steps": order, **self._start()})
        return self.images.export(
            recipe.for_source(self.source.name), classes=self.source.classes, attack=self.config.attack
        )

    def _start(self) -> dict[str, Any]:
        """The fields of the set's recipe that say where networks start that train on the set."""
        if self.pool is None:
            return {}
        where = "pretrained" if self.config.start == "random-pretrained" else identity_of(self.pool)
        return {"initialisation": where, "weights": self.config.starting_weights(self.source)}
