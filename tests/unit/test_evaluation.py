"""Scores and their random-real twins."""

from __future__ import annotations

import json

import pytest
import torch

from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.evaluation import Score, evaluate
from dd_core.images import LabelledImages
from dd_core.methods import method
from dd_core.protocols import PROTOCOLS
from dd_core.runner import distill
from dd_core.streams import generator
from dd_core.testing import blobs

RECIPE = {"network": "convnet-2-w16", "epochs": 15, "learning_rate": 0.02}


def hard_blobs() -> LabelledImages:
    """Blobs under so much noise that nothing scores 0 or 1."""
    easy = blobs(per_class=60)
    noise = torch.randint(0, 256, easy.images.shape, generator=generator(1, "noise"))
    mixed = (0.3 * easy.images + 0.7 * noise).to(torch.uint8)
    return LabelledImages(mixed, easy.labels, easy.classes, easy.name)


@pytest.fixture(scope="module")
def scored():
    train, test = hard_blobs().split(0.25, 0)
    ds = distill(method("random", recipe=RECIPE), train, Size(ipc=2), seed=9)
    return ds, train, test, evaluate(ds, train=train, test=test, nets=3, seed=2)


def test_score_is_mean_and_sample_deviation():
    score = Score.of([0.2, 0.4, 0.9])
    assert (score.mean, score.std) == (pytest.approx(0.5), pytest.approx(0.36055513))
    assert Score.of([0.3]).std == 0


def test_each_network_has_its_score_and_its_twin(scored):
    ds, _, test, result = scored
    assert len(result.accuracy.per_network) == len(result.random_real.per_network) == 3
    assert 0.4 < result.accuracy.mean < 1
    assert (result.images, result.bytes, result.twin_bytes) == (6, ds.images.nbytes, 6 * 64)
    assert result.protocol == "recipe"
    assert f"{len(test)} test images" in result.data
    assert json.loads(result.model_dump_json())["epoch"] == "last"


def test_a_set_of_real_images_and_its_twin_are_treated_alike(scored):
    """A random set *is* real images: scored under its own twin's draw it must score exactly like it."""
    _, train, test, result = scored
    from dd_core.evaluation import _twin
    from dd_core.selection import real_set
    from dd_core.streams import Streams

    ds = scored[0]
    drawn = _twin(ds, train, Streams(2), 0)
    pixels = ds.manifest.pixels
    raw = (drawn.inputs * torch.tensor(pixels.std[0]) + torch.tensor(pixels.mean[0])) * 255
    same = real_set(train, raw.round().to(torch.uint8), (2, 2, 2), ds.manifest.recipe)
    again = evaluate(same, train=train, test=test, nets=1, seed=2)
    assert again.accuracy.per_network[0] == result.random_real.per_network[0]


def test_the_result_is_determined_by_the_seed(scored):
    ds, train, test, result = scored
    assert evaluate(ds, train=train, test=test, nets=3, seed=2) == result
    assert evaluate(ds, train=train, test=test, nets=3, seed=3).random_real != result.random_real


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_every_protocol_gives_a_recipe(protocol: str, scored):
    from dd_core.protocols import recipe_of

    own = scored[0].manifest.recipe
    recipe = recipe_of(protocol, own, source_name="digits")
    assert (recipe == own) == (protocol == "recipe")
    assert "flip" not in recipe.augmentation
    assert recipe.network == own.network


def test_another_network_can_be_scored(scored):
    ds, train, test, _ = scored
    result = evaluate(ds, train=train, test=test, nets=1, network="lenet")
    assert result.network == "lenet"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "recipee"}, "unknown protocol 'recipee'; did you mean 'recipe'?"),
        ({"network": "convent-3"}, "unknown network 'convent-3'; did you mean 'convnet"),
        ({"nets": 0}, "0 networks; at least one is needed"),
        ({"test": blobs(classes=2)}, "the set has the classes blob 0, blob 1, blob 2, and blobs has blob 0, blob 1"),
        ({"test": blobs(side=10)}, "the set has 1x8x8 images (C x H x W), and blobs has 1x10x10"),
    ],
)
def test_what_does_not_fit_is_refused(scored, changes, message: str):
    ds, train, test, _ = scored
    with pytest.raises(UserError) as caught:
        evaluate(ds, **{"train": train, "test": test, "nets": 1, **changes})
    assert str(caught.value).startswith(message)
