"""The real images of a scenario: the source, the targets, and random images of the source as a set."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from dd_apps.data import Data
from dd_apps.transfer.config import TargetConfig, TransferScenario
from dd_apps.transfer.labelled import check_target
from dd_core import selection
from dd_core.distilled import IMAGENET, DistilledSet, Manifest, Pixels, Size
from dd_core.errors import Option, UserError
from dd_core.images import LabelledImages, Source, called, channel_stats, require_labels
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions
from dd_core.streams import Streams

LABELS = Recipe(  # KRR-ST's recipe for sets with labels (Lee et al. 2024): SGD, a tenth of the rate after half, DSA
    learning_rate=0.01, momentum=0.9, weight_decay=5e-4, schedule="step", epochs=1000, augmentation="auto"
)


def source_of(scenario: TransferScenario, options: RunOptions) -> Source:
    """The training images of the source, of the scenario's classes and in the scenario's number."""
    whole = scenario.real_images.load("train", workers=options.workers, say=options.reporter.message)
    return chosen(whole, scenario.classes, scenario.images, seed=scenario.seed, option="images")


def target_of(
    target: TargetConfig, shape: tuple[int, int, int], *, skip_corrupt: bool, seed: int
) -> tuple[Source, Source]:
    """Training and test images of a target, resized to the source's image `shape` (C, H, W).

    Raises `UserError` for images that no classifier can be trained and tested on, and for a number of channels that is
    not the source's.
    """
    _, height, width = shape
    data = Data(target.data, height if height == width else None, skip_corrupt)
    train, test = (
        chosen(data.load(split), target.classes, count, seed=seed, option=f"targets.{split}")
        for split, count in (("train", target.train), ("test", target.test))
    )
    check_target(train, test)
    if train.image_shape != shape:
        theirs, ours = ("x".join(map(str, each)) for each in (train.image_shape, shape))
        raise UserError(
            f"target {called(train)} has {theirs} images (C x H x W), and the source has {ours} images; take a target "
            "with as many channels"
        )
    return train, test


def chosen(source: Source, classes: tuple[int, ...], count: int | None, *, seed: int, option: str) -> Source:
    """The images of some classes, relabelled in the given order; `count` of them, as evenly over classes as possible.

    Images without labels are drawn from all alike. Raises `UserError` for classes that `source` lacks, and for a
    `count` above its number of images.
    """
    if classes:
        source = _of_classes(source, classes)
    if count is None or count == len(source):
        return source
    if count > len(source):
        raise UserError(f"{Option(option, len(source))}: {called(source)} has no more, so {count} cannot be drawn")
    return source.subset(random_rows(source, count, streams=Streams(seed).child("images")).sort().values)


def _of_classes(source: Source, classes: tuple[int, ...]) -> Source:
    require_labels(source)
    if not isinstance(source, LabelledImages):
        raise UserError(f"{called(source)} does not fit into memory, as classes need; give a smaller image_size")
    if max(classes) >= len(source.classes) or len({*classes}) < len(classes):
        raise UserError(
            f"{Option('classes')}: {', '.join(map(str, classes))} of {called(source)}, which has {len(source.classes)} "
            "classes, counted from 0; name each once"
        )
    return source.of_classes(classes)


def random_rows(source: Source, count: int, *, streams: Streams) -> Int64[Tensor, " n"]:
    """Rows of `count` random images, as evenly over classes as possible; without labels, from all images alike.

    Raises `UserError` where there are fewer images.
    """
    if source.labels is None:
        if count > len(source):
            raise UserError(f"{count} images are drawn, and {called(source)} has {len(source)}")
        return torch.randperm(len(source), generator=streams.generator("random"))[:count]
    counts = Size(images=count).per_class(len(source.classes))
    return selection.random_indices(source, counts, streams=streams, stream="random")


def labelled_set(source: Source, rows: Int64[Tensor, " n"], like: DistilledSet, recipe: Recipe) -> DistilledSet:
    """The real images `rows` with their labels as a set, normalised and whitened as the set `like`."""
    labels = require_labels(source)[rows]
    manifest = Manifest(
        classes=source.classes,
        pixels=like.manifest.pixels.model_copy(update={"space": "raw"}),
        recipe=recipe.for_source(source.name),
    )
    return DistilledSet(source.take(rows).numpy(), labels.numpy(), manifest, whitening=like.whitening)


def features_set(source: Source, features: Tensor, like: DistilledSet, recipe: Recipe) -> DistilledSet:
    """All images of `source` with the targets `features` (N, D) as a set, normalised and whitened as the set `like`."""
    manifest = Manifest(
        task="self-supervised",
        classes=(),
        targets="features",
        pixels=like.manifest.pixels.model_copy(update={"space": "raw"}),
        recipe=recipe,
    )
    images = source.take(torch.arange(len(source))).numpy()
    return DistilledSet(images, None, manifest, targets=features.numpy(), whitening=like.whitening)


def sample_of(source: Source, *, statistics: str) -> DistilledSet:
    """A set of a source's first image, for its normalisation: the source's own mean and std, or ImageNet's."""
    mean, std = IMAGENET if statistics == "imagenet" else channel_stats(source)
    manifest = Manifest(
        task="self-supervised", classes=(), pixels=Pixels(space="raw", mean=mean, std=std), recipe=Recipe()
    )
    return DistilledSet(source.take(torch.arange(1)).numpy(), None, manifest)


def as_source(ds: DistilledSet, name: str) -> LabelledImages:
    """The images of a set that networks see, as a uint8 source without labels."""
    return LabelledImages(torch.tensor(ds.decoded().quantised().images), None, (), name)


def with_recipe(ds: DistilledSet, recipe: Recipe) -> DistilledSet:
    """The set with another recipe."""
    return replace(ds, manifest=ds.manifest.model_copy(update={"recipe": recipe}))
