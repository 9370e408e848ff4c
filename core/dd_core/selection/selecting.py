"""Choosing, or averaging, real images class by class, for methods and for random-real twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int64, UInt8
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from dd_core import networks
from dd_core.distilled import DistilledSet, Manifest, Pixels, Statistics
from dd_core.errors import UserError
from dd_core.images import (
    PIXEL_BYTES,
    Source,
    called,
    channel_stats,
    indices_by_class,
    normalise,
    pixel_batch,
    require_labels,
)
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system.footprint import prediction_batch

if TYPE_CHECKING:
    import numpy as np

Features = Callable[[Int64[Tensor, " n"]], Float[Tensor, "n D"]]  # the features of rows of a source, on the CPU


def members_of(source: Source, counts: Sequence[int]) -> list[Int64[Tensor, " n"]]:
    """Indices of each class; raises `UserError` for a class with fewer images than `counts` asks for."""
    members = indices_by_class(source)
    for index, (have, want) in enumerate(zip(members, counts, strict=True)):
        if want > len(have):
            raise UserError(
                f"{called(source)}: class '{source.classes[index]}' has {len(have)} images, and {want} are asked for"
                "; ask for fewer"
            )
    return members


def largest_class(source: Source) -> int:
    """The number of images in the largest class."""
    return max(len(members) for members in indices_by_class(source))


def labels_of(counts: Sequence[int]) -> Int64[Tensor, " n"]:
    """Class-major labels: `counts[0]` zeros, `counts[1]` ones, ..."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def random_indices(source: Source, counts: Sequence[int], *, streams: Streams, stream: str) -> Int64[Tensor, " n"]:
    """Indices of `counts[c]` random images of each class c, without replacement, class-major."""
    chosen: list[Tensor] = []
    for index, members in enumerate(members_of(source, counts)):
        order = torch.randperm(len(members), generator=streams.generator(stream, index))
        chosen.append(members[order[: counts[index]]])
    return torch.cat(chosen)


def herd(
    features: Float[Tensor, "n D"], count: int, *, given: Float[Tensor, "m D"] | None = None
) -> Int64[Tensor, " k"]:
    """Greedy herding: each pick brings the mean of the picks closest to the mean of all.

    Welling, Herding dynamical weights to learn (2009), in the form of iCaRL (2017), algorithm 4:
    p_k = argmin_x || mu - (phi(x) + sum_{j<k} phi(p_j)) / k ||. Picks are distinct. given: features of m images that
    count as the first picks: the sum includes them, and k counts on from m.
    """
    mean = features.mean(0)
    total = torch.zeros_like(mean) if given is None else given.sum(0)
    begun = 0 if given is None else len(given)
    left = torch.ones(len(features), dtype=torch.bool)
    picks: list[int] = []
    rows = max(1, PIXEL_BYTES // max(1, features[:1].nbytes))  # at once, as differences take as many floats again
    for k in range(begun + 1, begun + count + 1):
        distance = torch.cat([(mean - (part + total) / k).square().sum(1) for part in features.split(rows)])
        pick = int(distance.masked_fill(~left, torch.inf).argmin())
        left[pick] = False
        total = total + features[pick]
        picks.append(pick)
    return torch.tensor(picks)


def herded_indices(source: Source, counts: Sequence[int], features: Features) -> Int64[Tensor, " n"]:
    """Class-major indices of `counts[c]` images of each class c, picked by `herd` among the class's `features`.

    Raises `UserError` for a class with fewer images.
    """
    picks = [
        members[herd(features(members), counts[index])] for index, members in enumerate(members_of(source, counts))
    ]
    return torch.cat(picks)


def pixel_features(source: Source) -> Features:
    """Features that are pixels, (n, C * H * W) in [0, 1]."""
    return lambda rows: source.take(rows).flatten(1).float().div_(255)


def network_features(source: Source, network: nn.Module, *, device: torch.device) -> Features:
    """The features of `network`, which is on `device`, for images normalised by the statistics of `source`."""
    mean, std = channel_stats(source)

    def embed(images: Tensor) -> Tensor:
        return networks.embed(network, normalise(images, mean, std))

    size = prediction_batch(embed, source.image_shape, device, most=1024)

    @torch.no_grad()
    def features(rows: Tensor) -> Tensor:
        return torch.cat([embed(source.take(part).to(device)).cpu() for part in rows.split(size)])

    return features


def group_averages(source: Source, counts: Sequence[int], *, streams: Streams) -> Float[Tensor, "N C H W"]:
    """The mean images, pixels in [0, 1], of the `counts[c]` groups that each class c is dealt to at random.

    Raises `UserError` for a class with fewer images than groups.
    """
    means: list[Tensor] = []
    for index, members in enumerate(members_of(source, counts)):
        order = torch.randperm(len(members), generator=streams.generator("groups", index))
        groups = torch.arange(len(members)) % counts[index]
        means.append(averages(source, members[order], groups, counts[index]))
    return torch.cat(means)


def averages(
    source: Source, rows: Int64[Tensor, " n"], groups: Int64[Tensor, " n"], count: int
) -> Float[Tensor, "k C H W"]:
    """The mean of each group of images, pixels in [0, 1], from exact integer sums.

    rows: images of `source`; groups: the group of each row, from 0 to `count` - 1.
    """
    sums = torch.zeros(count, *source.image_shape, dtype=torch.int64)
    size = pixel_batch(source.image_shape, most=len(rows), bytes_each=8)
    for part, into in zip(rows.split(size), groups.split(size), strict=True):
        sums.index_add_(0, into, source.take(part).long())
    sizes = torch.bincount(groups, minlength=count).view(-1, 1, 1, 1)
    return (sums.double() / (sizes * 255)).float()


def cluster_centres(source: Source, counts: Sequence[int], *, streams: Streams) -> Float[Tensor, "N C H W"]:
    """The centres, pixels in [0, 1], of `counts[c]` clusters of each class c.

    Raises `UserError` for a class with fewer images than clusters.
    """
    centres = [
        k_means(source.take(members), counts[index], seed=streams.child("k-means", index).seed)
        for index, members in enumerate(members_of(source, counts))
    ]
    return torch.cat(centres)


def k_means(images: UInt8[Tensor, "n C H W"], count: int, *, seed: int) -> Float[Tensor, "k C H W"]:
    """Centres of k-means++ and Lloyd's algorithm in pixel space (scikit-learn), in [0, 1]."""
    from sklearn.cluster import KMeans  # takes a second to import, and only this method uses it

    points: np.ndarray = images.flatten(1).double().div_(255).numpy()
    # one thread: partial sums of several threads differ in the last bits
    with threadpool_limits(1):
        # no copy: nobody else uses the points, and a copy would double the peak of memory
        fitted = KMeans(count, n_init=cast(Any, 1), random_state=seed % 2**32, copy_x=False).fit(points)
    return torch.from_numpy(fitted.cluster_centers_).float().clamp(0, 1).view(count, *images.shape[1:])


def real_set(
    source: Source,
    images: UInt8[Tensor, "N C H W"] | Float[Tensor, "N C H W"],
    counts: Sequence[int],
    recipe: Recipe,
    *,
    statistics: Statistics | None = None,
) -> DistilledSet:
    """A set of raw pixels (uint8, or float in [0, 1]) with class-major labels.

    statistics: mean and std that networks' inputs are normalised with; None: those of the source.
    """
    require_labels(source)
    mean, std = statistics or channel_stats(source)
    manifest = Manifest(
        classes=source.classes, pixels=Pixels(space="raw", mean=mean, std=std), recipe=recipe.for_source(source.name)
    )
    return DistilledSet(images.numpy(), labels_of(counts).numpy(), manifest)
