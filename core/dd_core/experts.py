"""Expert trajectories as artefacts: the weights of networks trained on real images, after each epoch.

    theta_{t+1} = an epoch of SGD on the real images under DSA, from theta_t       t = 0 .. epochs-1

Plain SGD makes the experts of MTT (Cazenavette et al. 2022, section 3.1). With `sharpness` every step is that of
GSAM (Zhuang et al. 2022) with the adaptive neighbourhood of ASAM (Kwon et al. 2021), as FTD (Du et al. 2023) and DATM
(Guo et al. 2024) train theirs: flat trajectories, along which errors accumulate less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from dd_core import augment, training
from dd_core import device as devices
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Resources, Tensors
from dd_core.config import digest, plain
from dd_core.distilled import Recipe
from dd_core.errors import UserError, require_finite
from dd_core.expert_training import Sharpness, Training
from dd_core.images import Source, channel_stats, normalise, require_labels
from dd_core.parallel import thread_count
from dd_core.streams import Streams

SAVE_SECONDS = 30.0  # between two records of an expert under way

Gradients = tuple[Tensor, ...]


class Experts(ArtefactSpec):
    """`count` experts for images (C, H, W); expert i is the same among any number of them."""

    kind: ClassVar[str] = "experts"

    source: str = Field(description="fingerprint of the real images")
    network: str
    initialisation: str = Field(default="default", description="what the first weights are drawn from")
    image_shape: tuple[int, int, int]
    classes: int
    count: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    training: Training

    def digest(self) -> str:
        """sha256 of all that determines expert i."""
        return digest({"kind": self.kind, "spec": {**plain(self), "count": None}})

    def parts(self) -> int:
        """One expert a part."""
        return self.count

    def wanted(self, resources: Any) -> Any:
        """The images of the fingerprint; raises `UserError` where they are not at hand."""
        found = resources.sources.get(self.source) if isinstance(resources, Resources) else None
        if found is None:
            raise UserError(
                f"experts are to be trained on images with the fingerprint {self.source[:12]}..., not at hand"
            )
        return Resources({self.source: found}, resources.device)

    def nbytes(self) -> int:
        """Bytes that the kept weights of all experts take on disk."""
        recipe = Recipe(network=self.network)
        model = training.initialised(recipe, self.image_shape, self.classes, streams=Streams(0))
        each = sum(parameter.numel() for parameter in model.parameters())
        kept = self.training.end - self.training.first + 1
        return self.count * kept * each * (4 if self.training.dtype == "float32" else 2)

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Train expert `index` in one thread, and keep its flat weights (epochs, P); goes on after a kill."""
        device = devices.resolve(resources.device)
        with thread_count(1):
            expert = _Expert(self, resources.sources[self.source], Streams(self.seed).child("expert", index), device)
            expert.load_state_dict(progress.load())
            saved = time.monotonic()
            while expert.epoch < self.training.end:
                expert.train_epoch()
                if time.monotonic() - saved >= SAVE_SECONDS:
                    progress.save(expert.state_dict())
                    saved = time.monotonic()
        return {"t0": np.stack(expert.kept)}, {"losses": expert.losses, "dtype": self.training.dtype}


def trajectory(experts: Artefact, index: int) -> Float[Tensor, "epochs P"]:
    """The kept weights of expert `index`, flat, in the order of `network.parameters()`."""
    tensors, facts = experts.part(index)
    return _unpacked(tensors["t0"], facts["dtype"])


class _Expert:
    """One expert under way."""

    def __init__(self, spec: Experts, source: Source, streams: Streams, device: torch.device) -> None:
        if source.image_shape != spec.image_shape or len(source.classes) != spec.classes:
            raise UserError(f"experts are for other images than those of {source.name}")
        self.how, self.source, self.streams, self.device = spec.training, source, streams, device
        self.labels = require_labels(source).to(device)
        self.mean, self.std = channel_stats(source)
        recipe = Recipe(network=spec.network, initialisation=spec.initialisation)
        self.model = training.initialised(recipe, spec.image_shape, spec.classes, streams=streams).to(device).train()
        how = self.how
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), lr=how.learning_rate, momentum=how.momentum, weight_decay=how.weight_decay
        )
        self.epoch, self.losses, self.kept = 0, list[float](), list[np.ndarray]()
        self._keep()

    def train_epoch(self) -> None:
        """One pass over the real images."""
        how, total = self.how, torch.zeros((), device=self.device)
        late = how.decay and self.epoch > how.epochs // 2
        self.optimiser.param_groups[0]["lr"] = how.learning_rate * (0.1 if late else 1.0)
        order = torch.randperm(len(self.source), generator=self.streams.generator("order", self.epoch))
        transforms = self.streams.generator("augmentation", self.epoch)
        with self.streams.seeded("training", self.epoch):
            for rows in order.split(how.batch_size):
                images = normalise(self.source.take(rows).to(self.device), self.mean, self.std)
                images = augment.dsa(images, how.augmentation, generator=transforms)
                total += self._step(images, self.labels[rows.to(self.device)]) * len(rows)
        loss = total.item() / len(self.source)
        require_finite(**{"loss of an expert": loss})
        self.losses.append(loss)
        self.epoch += 1
        self._keep()

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of SGD; the loss before it."""
        parameters = dict(self.model.named_parameters())

        def loss_at(theta: Gradients) -> Tensor:
            values = dict(zip(parameters, theta, strict=True))
            return F.cross_entropy(functional_call(self.model, values, (images,)), labels)

        theta = tuple(parameters.values())
        loss, gradients = flat_gradient(loss_at, theta, self.how.sharpness)
        for parameter, gradient in zip(theta, gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        return loss

    def _keep(self) -> None:
        if self.how.first <= self.epoch <= self.how.end:
            flat = nn.utils.parameters_to_vector(self.model.parameters()).detach().cpu()
            self.kept.append(_packed(flat, self.how.dtype))

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on."""
        return {
            "epoch": self.epoch,
            "losses": self.losses,
            "kept": self.kept,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state`; from the beginning without one."""
        if state is None:
            return
        self.epoch, self.losses, self.kept = state["epoch"], list(state["losses"]), list(state["kept"])
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def flat_gradient(
    loss_at: Callable[[Gradients], Tensor], theta: Gradients, sharpness: Sharpness | None
) -> tuple[Tensor, Gradients]:
    """(loss, gradient) at `theta`, or with `sharpness` the gradient that a step towards flatness takes.

    g is the gradient at theta, e = rho theta^2 g / || |theta| g || the worst step nearby (ASAM, equation 9), g_p the
    gradient at theta + e, and alpha times the part of g that is orthogonal to g_p is taken away from g_p (GSAM,
    equation 8; the norms are over all parameters).
    """
    loss = loss_at(theta)
    g = torch.autograd.grad(loss, theta)
    if sharpness is None:
        return loss.detach(), g
    with torch.no_grad():
        scale = sharpness.rho / (_norm(tuple(one.abs() * part for one, part in zip(theta, g, strict=True))) + 1e-12)
        worst = tuple(one + scale * one.square() * part for one, part in zip(theta, g, strict=True))
    worst = tuple(one.requires_grad_() for one in worst)
    g_p = torch.autograd.grad(loss_at(worst), worst)
    along = sum((a * b).sum() for a, b in zip(g, g_p, strict=True)) / (_norm(g_p).square() + 1e-12)
    return loss.detach(), tuple(b - sharpness.alpha * (a - along * b) for a, b in zip(g, g_p, strict=True))


def _norm(tensors: Gradients) -> Tensor:
    return torch.stack([one.norm() for one in tensors]).norm()


def _packed(flat: Tensor, dtype: str) -> np.ndarray:
    """Weights as numpy holds them: numpy has no bfloat16, so its bits are kept as int16."""
    return flat.numpy().copy() if dtype == "float32" else flat.bfloat16().view(torch.int16).numpy().copy()


def _unpacked(kept: np.ndarray, dtype: str) -> Tensor:
    stored = torch.tensor(kept)
    return stored if dtype == "float32" else stored.view(torch.bfloat16).float()
