"""Plain references of `peers.py`: each algorithm from its paper's mathematics, in PyTorch's ordinary way.

Nothing here imports the engine. Weights are given to a network by `torch.func.functional_call`, gradients come from
autograd, data from `DataLoader`, affine matrices from a loop over the images, as one would write them for a paper.
`tests/unit/test_bench_peers.py` holds each to the engine's own values, where both are given the same numbers.

Shapes: B images, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

Augment = Callable[[Tensor], Tensor]
Weights = dict[str, Tensor]
KINDS = ("color", "crop", "cutout", "flip", "scale", "rotate")


class ConvNet(nn.Module):
    """The literature's ConvNet: blocks of convolution, norm, relu and average pooling, then one linear layer."""

    def __init__(
        self, depth: int, width: int, *, side: int = 32, channels: int = 3, classes: int = 10, norm: str = "in"
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(depth):
            layers.append(nn.Conv2d(channels if block == 0 else width, width, 3, padding=1))
            layers.append(nn.GroupNorm(width, width) if norm == "in" else nn.BatchNorm2d(width))
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(width * (side // 2**depth) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


# --- differentiable siamese augmentation (Zhao and Bilen 2021) -----------------------------------------------------


def dsa(images: Tensor, kinds: Sequence[str] = KINDS) -> Tensor:
    """One kind, drawn for the batch, and its numbers for each image."""
    return TRANSFORMS[random.choice(list(kinds))](images)


def color(images: Tensor) -> Tensor:
    """Brightness, saturation, contrast."""
    count = len(images)
    images = images + (torch.rand(count, 1, 1, 1) - 0.5)
    mean = images.mean(dim=1, keepdim=True)
    images = (images - mean) * (torch.rand(count, 1, 1, 1) * 2) + mean
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (torch.rand(count, 1, 1, 1) + 0.5) + mean


def crop(images: Tensor) -> Tensor:
    """A shift of up to an eighth of a side, by padding and advanced indexing."""
    count, _, height, width = images.shape
    y, x = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
    down = torch.randint(-y, y + 1, (count, 1, 1))
    right = torch.randint(-x, x + 1, (count, 1, 1))
    batch, rows, columns = torch.meshgrid(torch.arange(count), torch.arange(height), torch.arange(width), indexing="ij")
    rows = torch.clamp(rows + down + 1, 0, height + 1)
    columns = torch.clamp(columns + right + 1, 0, width + 1)
    padded = F.pad(images, [1, 1, 1, 1])
    return padded.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2)


def cutout(images: Tensor) -> Tensor:
    """A hole of half a side."""
    count, _, height, width = images.shape
    tall, wide = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
    y = torch.randint(0, height + 1 - tall % 2, (count, 1, 1))
    x = torch.randint(0, width + 1 - wide % 2, (count, 1, 1))
    batch, rows, columns = torch.meshgrid(torch.arange(count), torch.arange(tall), torch.arange(wide), indexing="ij")
    mask = torch.ones(count, height, width)
    rows = torch.clamp(rows + y - tall // 2, 0, height - 1)
    columns = torch.clamp(columns + x - wide // 2, 0, width - 1)
    mask[batch, rows, columns] = 0
    return images * mask.unsqueeze(1)


def flip(images: Tensor) -> Tensor:
    """Half of the images mirrored."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


def scale(images: Tensor) -> Tensor:
    """Each axis by up to 1.2, its matrix made image by image."""
    ratio = 1.2
    factors = torch.rand(len(images), 2) * (ratio - 1 / ratio) + 1 / ratio
    return _affine(images, [[[float(sx), 0, 0], [0, float(sy), 0]] for sx, sy in factors])


def rotate(images: Tensor) -> Tensor:
    """Up to 15 degrees, its matrix made image by image."""
    angles = (torch.rand(len(images)) - 0.5) * 2 * 15 / 180 * math.pi
    return _affine(
        images, [[[math.cos(a), math.sin(-a), 0], [math.sin(a), math.cos(a), 0]] for a in map(float, angles)]
    )


def _affine(images: Tensor, matrices: list[list[list[float]]]) -> Tensor:
    grid = F.affine_grid(torch.tensor(matrices), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


TRANSFORMS: dict[str, Augment] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}


# --- matching trajectories (Cazenavette et al. 2022; Guo et al. 2024; Cui et al. 2023) -----------------------------


def matched(
    model: nn.Module,
    start: Weights,
    target: Weights,
    images: Tensor,
    targets: Tensor,
    rate: Tensor,
    *,
    steps: int,
    batch: int,
    augment: Augment,
) -> Tensor:
    """The loss of a student of `steps` steps; its graph goes back to `images`, `rate`, and `targets` that are logits.

    `targets`: labels (N,), or logits (N, K) of soft labels.
    """
    theta, order = start, list[Tensor]()
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(len(images)).split(batch))
        rows = order.pop()
        wanted = targets[rows] if targets.ndim == 1 else targets[rows].softmax(1)
        loss = F.cross_entropy(functional_call(model, theta, (augment(images[rows]),)), wanted)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        theta = {name: value - rate * g for (name, value), g in zip(theta.items(), gradients, strict=True)}
    apart = sum((theta[name] - target[name]).square().sum() for name in theta)
    whole = sum((start[name] - target[name]).square().sum() for name in start)
    return torch.as_tensor(apart / whole)


def tesla(
    model: nn.Module,
    start: Weights,
    target: Weights,
    images: Tensor,
    labels: Tensor,
    rate: float,
    *,
    steps: int,
    batch: int,
    augment: Augment,
) -> tuple[Tensor, Tensor]:
    """(loss, gradient of the images): TESLA's second pass, with the sum of all gradients of the first one.

    d loss / d x = 2 (rate^2 G + rate (target - start))^T sum_t d g_t / d x, over the squared distance of the start.
    """
    theta, path, batches, order = start, list[Weights](), list[Tensor](), list[Tensor]()
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    states = list[Any]()
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(len(images)).split(batch))
        rows = order.pop()
        states.append((torch.get_rng_state(), random.getstate()))
        loss = F.cross_entropy(functional_call(model, theta, (augment(images[rows]),)), labels[rows])
        gradients = torch.autograd.grad(loss, list(theta.values()))
        path.append(theta)
        batches.append(rows)
        total = {name: value + g for (name, value), g in zip(total.items(), gradients, strict=True)}
        theta = {
            name: (value - rate * g).detach().requires_grad_()
            for (name, value), g in zip(theta.items(), gradients, strict=True)
        }
    whole = sum((start[name] - target[name]).square().sum() for name in start)
    loss = sum((theta[name] - target[name]).square().sum() for name in theta) / whole
    vector = [2 * (rate**2 * total[name] + rate * (target[name] - start[name])) / whole for name in start]
    pixels = torch.zeros_like(images)
    for theta, rows, (drawn, chosen) in zip(path, batches, states, strict=True):
        torch.set_rng_state(drawn)
        random.setstate(chosen)
        inner = F.cross_entropy(functional_call(model, theta, (augment(images[rows]),)), labels[rows])
        gradients = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
        product = sum((v.detach() * g).sum() for v, g in zip(vector, gradients, strict=True))
        pixels += torch.autograd.grad(torch.as_tensor(product), images)[0]
    return torch.as_tensor(loss).detach(), pixels


# --- matching distributions and gradients (Zhao and Bilen 2023; Zhao et al. 2021) ----------------------------------


def distribution(features: Callable[[Tensor], Tensor], real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """The sum over classes of the squared distance of mean features; real ones have no gradient."""
    total = torch.zeros(())
    for ours, theirs in zip(synthetic, real, strict=True):
        with torch.no_grad():
            mean = features(theirs).mean(0)
        total = total + (features(ours).mean(0) - mean).square().sum()
    return total


def gradient_distance(model: nn.Module, real: Tensor, synthetic: Tensor, label: int) -> Tensor:
    """One class: the sum over weights, and over rows of each, of 1 - cosine of the two gradients."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    labels = torch.full((len(real),), label)
    theirs = torch.autograd.grad(F.cross_entropy(model(real), labels), weights)
    labels = torch.full((len(synthetic),), label)
    ours = torch.autograd.grad(F.cross_entropy(model(synthetic), labels), weights, create_graph=True)
    total = torch.zeros(())
    for one, other in zip(ours, theirs, strict=True):
        one, other = one.flatten(1), other.flatten(1)
        total = total + (1 - (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + 1e-6)).sum()
    return total


# --- recovery (Yin et al. 2023) and kernel ridge regression (Lee et al. 2024) --------------------------------------


def recovery(teacher: nn.Module, images: Tensor, labels: Tensor, *, r_bn: float, first: float) -> Tensor:
    """Cross-entropy, and how far the statistics of each batch norm's input are from its running ones."""
    distances: list[Tensor] = []

    def hook(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        (values,) = inputs
        mean = values.mean(dim=(0, 2, 3))
        variance = values.permute(1, 0, 2, 3).reshape(values.shape[1], -1).var(1, unbiased=False)
        distances.append((mean - norm.running_mean).norm(2) + (variance - norm.running_var).norm(2))

    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_hook(hook) for norm in norms]
    loss = F.cross_entropy(teacher(images), labels)
    for handle in handles:
        handle.remove()
    weights = [first] + [1.0] * (len(distances) - 1)
    return loss + r_bn * sum(weight * each for weight, each in zip(weights, distances, strict=True))


def regression(
    features: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    real: Tensor,
    answers: Tensor,
    *,
    ridge: float,
) -> Tensor:
    """The mean squared error of kernel ridge regression from the synthetic images to the real ones, in float64."""
    ours = torch.cat([features(images), torch.ones(len(images), 1)], dim=1).double()
    with torch.no_grad():
        theirs = torch.cat([features(real), torch.ones(len(real), 1)], dim=1).double()
    kernel = ours @ ours.T
    penalty = ridge * kernel.trace().detach() * torch.eye(len(images), dtype=torch.float64)
    predicted = theirs @ ours.T @ torch.linalg.solve(kernel + penalty, targets.double())
    return F.mse_loss(predicted.float(), answers)


# --- training on images ---------------------------------------------------------------------------------------------


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    rate: float,
    batch: int,
    augment: Augment,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> float:
    """SGD over shuffled mini-batches; the mean loss of the last epoch."""
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, weight_decay=weight_decay)
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch, shuffle=True)
    model.train()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for inputs, wanted in loader:
            loss = F.cross_entropy(model(augment(inputs)), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(wanted)
    return total / len(images)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 256) -> float:
    """The part of the images that the network takes for what they are."""
    model.eval()
    right = 0
    with torch.no_grad():
        for inputs, wanted in DataLoader(TensorDataset(images, labels), batch_size=batch):
            right += int((model(inputs).argmax(1) == wanted).sum())
    return right / len(images)


# --- real images ----------------------------------------------------------------------------------------------------


def whitening(pixels: np.ndarray, *, epsilon: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """(mean, matrix) of ZCA for rows of pixels in [0, 1], by a singular value decomposition of the covariance."""
    mean = pixels.mean(0)
    covariance = np.cov(pixels, rowvar=False)
    axes, variances, _ = np.linalg.svd(covariance)
    return mean, axes @ np.diag(1 / np.sqrt(variances + epsilon)) @ axes.T


def herding(features: Tensor, count: int) -> list[int]:
    """Indices of images whose running mean stays nearest to the mean of all (Welling 2009), picked one by one."""
    mean, total, chosen = features.mean(0), torch.zeros(features.shape[1], dtype=features.dtype), list[int]()
    for index in range(count):
        distances = ((total + features) / (index + 1) - mean).norm(dim=1)
        distances[chosen] = math.inf
        chosen.append(int(distances.argmin()))
        total = total + features[chosen[-1]]
    return chosen


def folder(path: Path, side: int, *, batch: int = 64) -> tuple[Tensor, Tensor]:
    """(images uint8 (N, C, H, W), labels) of class folders, by torchvision's ImageFolder and a DataLoader."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose([v2.Resize((side, side)), v2.PILToTensor()])
    loader: Iterable[tuple[Tensor, Tensor]] = DataLoader(ImageFolder(str(path), transform), batch_size=batch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)
