"""The loop of KRR-ST (see `config`): each iteration takes one batch of real images and one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import networks, selection, training, unroll
from dd_core.distilled import DistilledSet
from dd_core.distiller import Context
from dd_core.errors import require_finite
from dd_core.images import InputForm, require_labels
from dd_core.methods.krr_st.config import FEATURES, TEACHER, KRRSTConfig
from dd_core.methods.krr_st.pool import Pool
from dd_core.methods.krr_st.regression import predictions, with_one
from dd_core.synthetic import STREAM, Synthetic, initial_noise, mean_norm, total_variation
from dd_core.system.footprint import prediction_batch
from dd_core.training.feature_teachers import features_in, form_of_teacher

FALL = 1e-3  # the part of the learning rate that is left after all steps


class KRRSTDistiller:
    """Synthetic images (N, C, H, W), as network inputs, and targets (N, K) while they are learned."""

    def __init__(self, config: KRRSTConfig, context: Context) -> None:
        source, streams, device = context.source, context.streams, context.device
        self.config, self.source, self.streams, self.device = config, source, streams, device
        supervised = config.objective == "labels"
        self.form = InputForm.of(source) if supervised else form_of_teacher(context.artefacts[TEACHER])
        self.answers = (
            _around_zero(require_labels(source), len(source.classes))
            if supervised
            else features_in(context.artefacts[FEATURES])
        )
        count = context.size.total(len(source.classes))
        self.labels = selection.labels_of(context.counts) if supervised else None
        self.rows = self._chosen(context, count)
        clamp = ("raw" if config.inputs == "normalised" else "inputs") if config.bounded else "none"
        self.images = Synthetic(self._first_pixels(count).to(device), self.labels, self.form, clamp=clamp)
        self.pixels = self.images.pixels
        self.targets = self._first_targets(count).to(device).requires_grad_()
        self.optimiser = torch.optim.AdamW([self.pixels, self.targets], lr=config.learning_rate, weight_decay=0.0)
        self.recipe = config.recipe.for_source(source.name)
        self.pool = None if config.inner == "unrolled" else self._pool()
        self.at_once = 0  # real images that go through a network together; measured at the first step

    def _chosen(self, context: Context, count: int) -> Tensor:
        """Indices of the real images that synthetic ones start from, none for noise; class-major for labels."""
        if self.config.initial == "noise":
            return torch.arange(0)
        if self.config.objective == "labels":
            return selection.random_indices(self.source, context.counts, streams=self.streams, stream=STREAM)
        return torch.randperm(len(self.source), generator=self.streams.generator(STREAM))[:count]

    # --- where they start -------------------------------------------------------------------------------------------

    def _first_pixels(self, count: int) -> Tensor:
        if self.config.initial == "noise":
            return initial_noise(count, self.source.image_shape, streams=self.streams, stream="noise")
        images = self.source.take(self.rows)
        return self.form(images) if self.config.inputs == "normalised" else images.float() / 255

    def _first_targets(self, count: int) -> Tensor:
        if self.labels is not None:
            return _around_zero(self.labels, self.answers.shape[1])
        if self.config.initial_targets == "teacher" and self.config.initial == "real":
            return self.answers[self.rows].clone()
        mean, std = self.answers.mean(0), self.answers.std(0, correction=0)
        noise = torch.randn(count, self.answers.shape[1], generator=self.streams.generator("noisy-targets"))
        return mean + std * noise

    def _pool(self) -> Pool:
        return Pool(
            self.recipe,
            pixels=self.pixels,
            targets=self.targets,
            count=self.config.networks,
            oldest=self.config.online_steps,
            rule=self.config.pool,
            streams=self.streams.child("pool"),
            device=self.device,
        )

    # --- steps ------------------------------------------------------------------------------------------------------

    def step(self, index: int) -> dict[str, float]:
        """One outer iteration; raises `Diverged` before an update that is not finite."""
        config = self.config
        if self.pool is not None and index == 0:
            self.pool.grow_up()
        if not self.at_once:
            self.at_once = self._measured()
        member = int(torch.randint(config.networks, (), generator=self.streams.generator("network", index)))
        real = torch.randperm(len(self.source), generator=self.streams.generator("real", index))[: config.batch_real]
        if self.pool is None:
            loss, gradients = self._unrolled(index, real)
        else:
            loss = self.loss(self.pool.network(member), real)
            gradients = torch.autograd.grad(loss, (self.pixels, self.targets))
        self._update(index, loss.detach(), gradients)
        if self.pool is None:
            return {"loss": loss.item()}
        age = self.pool.age(member)
        self.pool.advance(member)
        return {"loss": loss.item(), "age": float(age)}

    def loss(self, network: nn.Module, rows: Tensor) -> Tensor:
        """The loss of the ridge regression on `network`'s features, over the real images `rows` and their answers."""
        support = with_one(networks.embed(network, self.pixels))
        with torch.no_grad():
            parts = [networks.embed(network, self._real(part)) for part in rows.split(self.at_once)]
        queries = with_one(torch.cat(parts))
        return self._distance(predictions(support, self.targets, queries, ridge=self.config.ridge), rows)

    def _unrolled(self, index: int, rows: Tensor) -> tuple[Tensor, unroll.Tensors]:
        """The loss of a fresh network that was trained on images and targets, and the gradient with respect to both."""
        config = self.config
        streams = self.streams.child("unrolled", index)
        outputs = self.answers.shape[1]
        network = training.initialised(self.recipe, self.source.image_shape, outputs, streams=streams).to(self.device)
        real = self._real(rows)

        def inner(t: int, theta: unroll.Tensors, learned: unroll.Tensors) -> Tensor:
            del t
            return F.mse_loss(unroll.apply(network, theta, learned[0]), learned[1])

        result = unroll.unroll(
            unroll.sgd_step(inner, lambda t, learned: torch.tensor(self.recipe.learning_rate, device=self.device)),
            config.unrolled_steps,
            tuple(parameter.detach() for parameter in network.parameters()),
            (self.pixels, self.targets),
            lambda theta: self._distance(unroll.apply(network, theta, real), rows),
            mode=config.gradient,
        )
        return result.loss, result.learned

    def _distance(self, predicted: Tensor, rows: Tensor) -> Tensor:
        answers = self.answers[rows].to(predicted, non_blocking=True)
        if self.config.objective == "labels":
            return F.cross_entropy(predicted, answers.argmax(1))
        return F.mse_loss(predicted, answers)

    def _update(self, index: int, loss: Tensor, gradients: tuple[Tensor, ...]) -> None:
        config = self.config
        pixels, targets = gradients
        if config.tv or config.l2:
            prior = config.tv * total_variation(self.pixels) + config.l2 * mean_norm(self.pixels)
            pixels = pixels + torch.autograd.grad(prior, self.pixels)[0]
        require_finite(loss=loss.item(), gradient=pixels.norm().item() + targets.norm().item())
        self.pixels.grad, self.targets.grad = pixels, targets
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * (1 + (FALL - 1) * index / config.steps)
        self.optimiser.step()
        self.images.updated()

    def _real(self, rows: Tensor) -> Tensor:
        return self.form(self.source.take(rows).to(self.device, non_blocking=True))

    def _measured(self) -> int:
        """How many real images may go through a network together."""
        outputs = self.answers.shape[1]
        network = training.initialised(self.recipe, self.source.image_shape, outputs, streams=self.streams)
        network = network.to(self.device).eval()
        shape, most = self.source.image_shape, self.config.batch_real
        return prediction_batch(
            lambda images: networks.embed(network, self.form(images)), shape, self.device, most=most
        )

    # --- state and result -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Images, targets, their moments, and the pool."""
        state: dict[str, Any] = {
            **self.images.state_dict(),
            "targets": self.targets.detach().clone(),
            "optimiser": self.optimiser.state_dict(),
        }
        return state if self.pool is None else {**state, "pool": self.pool.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.images.load_state_dict(state)
        with torch.no_grad():
            self.targets.copy_(state["targets"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.pool is not None:
            self.pool.load_state_dict(state["pool"])

    def export(self) -> DistilledSet:
        """The images, float32 network inputs, with their targets; with labels too where `objective` is labels."""
        supervised = self.config.objective == "labels"
        return self.images.export(
            self.recipe,
            classes=self.source.classes if supervised else (),
            targets=self.targets,
            kind="logits" if supervised else "features",
        )


def _around_zero(labels: Tensor, classes: int) -> Tensor:
    """(n, K) one-hot labels less 1 / K, which a linear regression predicts."""
    return F.one_hot(labels, classes).float() - 1 / classes
