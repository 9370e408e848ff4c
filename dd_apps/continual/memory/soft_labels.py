"""Soft labels of memory images: their kinds, labelling by the strategy's network, and alignment with its outputs.

Class ids are Avalanche's; `outputs_of` says which output of the network is of which class id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dd_apps.continual.adapter import RawClass, replay_dataset
from dd_apps.continual.memory.holding import ClassImages, decoded, ids_of
from dd_apps.continual.memory.network_at_hand import outputs
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.recipe import Recipe

Labels = Literal["hard", "stored", "network", "logits", "bank"]
LABELS: tuple[Labels, ...] = ("hard", "stored", "network", "logits", "bank")
BY_NETWORK = ("network", "logits")
LABEL_BYTES = 2  # the network's labels are kept as float16


def require_fitting(ds: DistilledSet, labels: Labels, method: str) -> None:
    """Raise `UserError` for a set whose whitening or soft labels a memory would drop, or that lacks soft labels."""
    if ds.whitening is not None:
        raise UserError(f"{method}: its set has whitened pixels, and a memory keeps plain images")
    if ds.targets is not None and labels != "stored":
        raise UserError(
            f"{method}: its set has soft labels, and this memory has labels='{labels}'; keep them by labels='stored', "
            "and learn them by SoftLabelReplay"
        )
    if ds.targets is None and labels == "stored":
        raise UserError(f"{method}: its set has no soft labels to keep; use labels='hard' or 'network'")


def labelled_by_network(
    ds: DistilledSet,
    strategy: Any,
    like: Mapping[int, RawClass],
    outputs_of: Mapping[int, int],
    labels: Labels,
) -> DistilledSet:
    """The set with soft labels by the strategy's network as it is now, float16.

    labels: "network" for class probabilities softmax(z / T) over the classes of `outputs_of`, those seen so far, with
    the temperature T of the set's recipe; "logits" for all outputs z. A stored image that a formation decodes into
    several images gets the mean of their labels. Raises `UserError` where the network has no output for a class.
    """
    part = decoded(ds)
    rows: dict[int, Tensor] = {}
    for label in np.unique(part.ids.numpy()).tolist():
        members = (part.ids == label).nonzero().flatten()
        logits = outputs(strategy, replay_dataset(part.images[members], label, like[label]))
        _require_outputs(outputs_of, logits.shape[1], labels)
        if labels == "network":
            seen = logits[:, list(outputs_of.values())]
            logits = (seen / ds.manifest.recipe.temperature).softmax(1)
        rows |= dict(zip(members.tolist(), logits, strict=True))
    made = torch.stack([rows[index] for index in range(len(part.rows))])
    means = torch.stack([made[part.rows == row].mean(0) for row in range(len(ds))])
    ids = list(outputs_of) if labels == "network" else list(range(made.shape[1]))
    return with_classes(ds, ids, means.half().numpy(), kind="probabilities" if labels == "network" else "logits")


def with_classes(ds: DistilledSet, ids: Sequence[int], targets: np.ndarray, *, kind: str) -> DistilledSet:
    """The set with the classes `ids`, its own among them, and `targets` (N, K) with a column for each."""
    places = np.array([list(ids).index(own) for own in ids_of(ds)], dtype=np.int64)
    manifest = ds.manifest.model_copy(update={"classes": tuple(map(str, ids)), "targets": kind})
    assert ds.labels is not None
    return replace(ds, labels=places[ds.labels], targets=targets, manifest=manifest)


def aligned(
    groups: Sequence[ClassImages], outputs_of: Mapping[int, int], width: int, recipe: Recipe
) -> tuple[Float[Tensor, "N K"], Bool[Tensor, "N K"]]:
    """Soft labels of all images of `groups` for a network of K = `width` outputs, and a mask of the known entries.

    Class probabilities (of logits, softened by the recipe's temperature) are 0 for classes that were not known when the
    labels were made. Under the loss `mse` logits stay as they are. Raises `UserError` where the network has fewer
    outputs than there are columns.
    """
    targets: list[Tensor] = []
    known: list[Tensor] = []
    for group in groups:
        soft, ds = group.soft, group.held.sets[0]
        assert soft is not None
        if ds.manifest.targets == "logits" and recipe.loss != "mse":
            soft = (soft / recipe.temperature).softmax(1)
        wide, mask = widened(soft, ids_of(ds).tolist(), outputs_of, width)
        targets.append(wide)
        known.append(mask)
    return torch.cat(targets), torch.cat(known)


def widened(
    soft: Float[Tensor, "n k"], ids: Sequence[int], outputs_of: Mapping[int, int], width: int
) -> tuple[Float[Tensor, "n K"], Bool[Tensor, "n K"]]:
    """Soft labels for the classes `ids`, spread to K = `width` outputs with 0 elsewhere, and a mask of known entries.

    Raises `UserError` where a class has no output.
    """
    places = [outputs_of.get(label, label) for label in ids]
    _require_outputs(dict(zip(ids, places, strict=True)), width, "stored")
    wide, mask = torch.zeros(len(soft), width), torch.zeros(len(soft), width, dtype=torch.bool)
    wide.index_add_(1, torch.tensor(places), soft)  # a transform of targets may give several classes one output
    mask[:, places] = True
    return wide, mask


def _require_outputs(outputs_of: Mapping[int, int], width: int, labels: str) -> None:
    if labels in BY_NETWORK and len(set(outputs_of.values())) < len(outputs_of):
        raise UserError(
            f"labels='{labels}' needs an output for each class, and a transform of targets gives several classes one "
            f"label ({', '.join(f'{label} is {output}' for label, output in list(outputs_of.items())[:4])}); use "
            "labels='hard'"
        )
    for label, output in outputs_of.items():
        if output >= width or output < 0:
            raise UserError(f"the memory's class {label} is output {output} of a network that has {width} outputs")
        if labels == "logits" and output != label:
            raise UserError(
                f"labels='logits' keeps outputs in the order of class ids, and class {label} is output {output}; use "
                "labels='network', or targets without a transform"
            )
