"""The best of many random draws, by accuracy on training images."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

from dd_core.datasets import load
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import Context
from dd_core.images import LabelledImages
from dd_core.methods import method
from dd_core.methods.optimized.distiller import OptimizedDistiller
from dd_core.streams import Streams
from dd_core.system.device import resolve
from dd_core.training import accuracy, fit, training_data

RECIPE = {"network": "convnet-1-w8-nonorm", "epochs": 10, "learning_rate": 0.05}
DRAWS = 10


@pytest.fixture(scope="module")
def train() -> LabelledImages:
    digits = load("digits", split="train")
    return digits.subset(torch.arange(0, len(digits), 4))


def search(train: LabelledImages, *, seed: int = 0, **options: object) -> OptimizedDistiller:
    config = method("optimized", steps=DRAWS, networks=2, batch_real=len(train), recipe=RECIPE, **options)
    made = config.build(Context(train, Size(ipc=1), Streams(seed), resolve("cpu")))
    assert isinstance(made, OptimizedDistiller)
    return made


@pytest.fixture(scope="module")
def scores(train: LabelledImages) -> list[float]:
    """Of the draws of seed 0."""
    made = search(train)
    return [made.step(index)["accuracy"] for index in range(DRAWS)]


def score_by_hand(ds: DistilledSet, train: LabelledImages) -> float:
    """The mean accuracy on all of `train` of the networks of seed 0, trained on `ds`."""
    recipe, device = ds.manifest.recipe, resolve("cpu")
    networks = [
        fit(
            training_data(ds, recipe),
            recipe.network,
            recipe,
            streams=Streams(0).child("network", position),
            device=device,
        )
        for position in range(2)
    ]
    return statistics.fmean(accuracy(one, train, ds.input_form(), device=device) for one in networks)


def test_the_best_draw_is_found_where_one_is_kept(train: LabelledImages, scores: list[float]):
    """The set is trained on and scored anew, on all training images: exactly the best score of the search."""
    found = search(train, keep=0.01)
    found.load_state_dict({"scores": scores})
    assert len(set(scores)) > DRAWS // 2
    assert score_by_hand(found.export(), train) == pytest.approx(max(scores), abs=1e-12)


def test_a_set_that_is_kept_does_better_on_training_images_than_the_median_draw(
    train: LabelledImages, scores: list[float]
):
    found = search(train)
    found.load_state_dict({"scores": scores})
    assert score_by_hand(found.export(), train) > statistics.median(scores)


def test_the_seed_draws_among_the_draws_that_are_kept(train: LabelledImages):
    chosen = []
    for seed in range(30):
        found = search(train, seed=seed, keep=0.3)
        found.load_state_dict({"scores": [0.1, 0.9, 0.2, 0.8, 0.3, 0.5, 0.4, 0.7, 0.6, 0.0]})
        images = found.export().images
        chosen += [draw for draw in range(DRAWS) if np.array_equal(train.take(found._draw(draw)).numpy(), images)]
    assert len(chosen) == 30
    assert set(chosen) == {1, 3, 7}


def test_every_draw_is_scored_on_the_same_images_of_the_source(train: LabelledImages):
    made = search(train)
    before = made.real.images.clone()
    made.step(0)
    assert torch.equal(made.real.images, before)
    pixels = {image.numpy().tobytes() for image in train.images}
    assert all(image.numpy().tobytes() in pixels for image in made.real.images)
    other = search(train, seed=1)
    assert not torch.equal(other.real.images, before)


def test_the_batch_bounds_the_images_that_score(train: LabelledImages):
    config = method("optimized", batch_real=7, recipe=RECIPE)
    made = config.build(Context(train, Size(ipc=1), Streams(0), resolve("cpu")))
    assert isinstance(made, OptimizedDistiller)
    assert len(made.real) == 7
