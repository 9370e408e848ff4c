"""Prints, as JSON, what becomes of values that are not of the annotated types."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dd_core import LabelledImages, Size, distill, evaluate, method, train
from dd_core.errors import UserError
from dd_core.runner import RunOptions
from dd_core.testing import blobs

IMAGES, LABELS = torch.arange(4 * 64).to(torch.uint8).view(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
CLASSES: dict[str, Any] = {
    "a list": ["cat", "dog"],
    "an array": np.array(["cat", "dog"]),
    "numpy's texts": [np.str_("cat"), "dog"],
    "numbers": [3, 7],
    "a range": range(2),
    "an array of numbers": np.array([3, 7]),
    "a tensor": torch.tensor([3, 7]),
    "a number and a text": [np.int64(3), "dog"],
    "a text": "cats",
    "a count": 2,
    "nothing": None,
    "a table": {"cat": 0, "dog": 1},
    "a set": {"cat", "dog"},
    "one is nothing": ["cat", None],
    "truths": [False, True],
    "fractions": [0.5, 1.5],
    "one twice": ["cat", "cat"],
    "a number and its digits": ["1", 1],
    "too few": ["cat"],
}
NOWHERE = RunOptions(device="nowhere")  # is refused too, after the seed: nothing is done before
SEEDS: dict[str, Any] = {repr(seed): seed for seed in (-1, np.int64(-1), 1.0, True, None, "1")}


def named(given: Any) -> list[str] | str:
    """The classes of a set of images with classes `given`, or the error; they are texts in a tuple, as if given so."""
    try:
        source = LabelledImages(IMAGES, LABELS, given, "mine")
    except UserError as error:
        return str(error)
    assert type(source.classes) is tuple
    assert all(type(name) is str for name in source.classes)
    assert source.fingerprint() == LabelledImages(IMAGES, LABELS, source.classes, "mine").fingerprint()
    return list(distill(method("average"), source, Size(ipc=1)).classes)


def refusal(call: Callable[[], object]) -> str:
    """The error of a call, which makes nothing."""
    try:
        call()
    except UserError as error:
        return str(error)
    return "no error"


source = blobs()
ds = distill(method("random"), source, Size(ipc=1))
calls: dict[str, Callable[[Any], object]] = {
    "distill": lambda seed: distill(method("average"), source, Size(ipc=1), seed=seed, options=NOWHERE),
    "train": lambda seed: train(ds, network="convnet-1-w4", seed=seed),
    "evaluate": lambda seed: evaluate(ds, train=source, test=source, network="convnet-1-w4", nets=1, seed=seed),
    "split": lambda seed: source.split(0.5, seed),
}
three = distill(method("random"), source, Size.of(np.array([1, 1, 1])), seed=np.int64(3))
assert three.manifest.provenance is not None
sys.stdout.write(
    json.dumps(
        {
            "classes": {name: named(given) for name, given in CLASSES.items()},
            "seeds": {
                name: {text: refusal(lambda call=call, seed=seed: call(seed)) for text, seed in SEEDS.items()}
                for name, call in calls.items()
            },
            "numpy's 3": [three.digest(), type(three.manifest.provenance.seed).__name__],
        }
    )
)
