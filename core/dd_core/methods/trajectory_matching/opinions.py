"""The experts' predictions for real images, and the second distances (`also`) of trajectory matching.

DATM (Guo et al. 2024, section 4) uses two predictions: which images an expert classifies rightly, and the mean logits
of the experts that classify an image rightly. The distances between real and synthetic images of a class at an expert's
weights are of mean features (Zhao and Bilen 2023, DM) or of gradients (Zhao, Mopuri and Bilen 2021, DC).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dd_core import networks, unroll
from dd_core.images import InputForm, Source, require_labels
from dd_core.selection import members_of
from dd_core.streams import Streams
from dd_core.system.footprint import prediction_batch


def parameters_of(network: nn.Module, flat: Float[Tensor, " P"]) -> tuple[Tensor, ...]:
    """Views of the weights `flat` in the shapes and order of the parameters of `network`."""
    shapes = [parameter.shape for parameter in network.parameters()]
    parts = flat.split([shape.numel() for shape in shapes])
    return tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))


@torch.no_grad()
def logits_of(network: nn.Module, weights: Float[Tensor, " P"], inputs: Float[Tensor, "n C H W"]) -> Tensor:
    """(n, K) logits of `network` with the flat `weights` instead of its own."""
    logits = _classifier(network, weights, inputs.device)
    shape = (inputs.shape[1], inputs.shape[2], inputs.shape[3])
    size = prediction_batch(lambda images: logits(images.float()), shape, inputs.device)
    return torch.cat([logits(part) for part in inputs.split(size)])


@torch.no_grad()
def right_of(
    network: nn.Module, weights: Float[Tensor, " P"], source: Source, form: InputForm, device: torch.device
) -> Bool[Tensor, " N"]:
    """Whether `network` with flat `weights` labels each image of `source` rightly."""
    logits = _classifier(network, weights, device)
    size = prediction_batch(lambda images: logits(form(images)), source.image_shape, device)
    guesses = [logits(form(batch.to(device))).argmax(1).cpu() for batch in source.batches(size)]
    return torch.cat(guesses) == require_labels(source)


def _classifier(network: nn.Module, weights: Float[Tensor, " P"], device: torch.device) -> Callable[[Tensor], Tensor]:
    """`network` with the flat `weights`, on `device`, as a function from inputs (n, C, H, W) to logits (n, K)."""
    theta = parameters_of(network, weights.to(device))
    return lambda inputs: unroll.apply(network, theta, inputs)


def right_indices(
    source: Source, counts: Sequence[int], right: Callable[[int], Bool[Tensor, " N"]], experts: int, *, streams: Streams
) -> Int64[Tensor, " n"]:
    """Class-major indices of `counts[c]` random images of each class c that expert 0 classifies rightly.

    Where expert 0 gives too few, images that expert 1 classifies rightly follow, and so on, and any images at the end.
    right: for an expert, whether it classifies each image rightly; called only for the experts that are needed.
    """
    members = members_of(source, counts)
    rank = torch.full((len(source),), experts)  # the first expert that is right
    for expert in range(experts):
        if all(int((rank[rows] < experts).sum()) >= want for rows, want in zip(members, counts, strict=True)):
            break
        rank = torch.where(right(expert) & (rank == experts), expert, rank)
    chosen: list[Tensor] = []
    for index, (rows, want) in enumerate(zip(members, counts, strict=True)):
        shuffled = rows[torch.randperm(len(rows), generator=streams.generator("initial-images", index))]
        chosen.append(shuffled[rank[shuffled].argsort(stable=True)][:want])
    return torch.cat(chosen)


def mean_logits(logits: Float[Tensor, "E n K"], labels: Int64[Tensor, " n"]) -> Float[Tensor, "n K"]:
    """For each image the mean logits of the E experts that classify it rightly, or of all experts where none does."""
    right = (logits.argmax(2) == labels).float()
    weight = torch.where(right.sum(0) > 0, right, torch.ones_like(right))
    return (logits * weight[:, :, None]).sum(0) / weight.sum(0)[:, None]


# --- distances -----------------------------------------------------------------------------------------------------


def feature_distance(network: nn.Module, real: Tensor, syn: Tensor, label: int) -> Tensor:
    """Squared distance of the mean features of the images of one class (DM, equation 7); a scalar."""
    del label
    with torch.no_grad():
        target = networks.embed(network, real).mean(0)
    return (networks.embed(network, syn).mean(0) - target).square().sum()


def gradient_distance(network: nn.Module, real: Tensor, syn: Tensor, label: int) -> Tensor:
    """Distance of the gradients of the images of one class (DC, equation 9); a scalar.

    D = 1 - cosine of each output unit's weights, summed over units and layers; biases and norms do not count.
    """
    target, gradients = _gradients(network, real, label, create_graph=False), _gradients(network, syn, label)
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(target, gradients, strict=True) if a.ndim > 1]
    return torch.stack([(1 - F.cosine_similarity(a, b, dim=1, eps=1e-6)).sum() for a, b in pairs]).sum()


def _gradients(network: nn.Module, images: Tensor, label: int, *, create_graph: bool = True) -> tuple[Tensor, ...]:
    labels = torch.full((len(images),), label, device=images.device)
    loss = F.cross_entropy(network(images), labels)
    return torch.autograd.grad(loss, tuple(network.parameters()), create_graph=create_graph)
