"""Recipes on disk: files of every version mean what they meant, and a new field is written only where it is used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dd_core.config import canonical, decode, plain
from dd_core.errors import UserError
from dd_core.recipe import Pretraining, Recipe, ScheduledStep, StartingPool

# as version 0.1.0 wrote them before `Recipe` had loss, warmup and betas
PLAIN = (
    '{"align_corners":true,"augmentation":"none","batch_size":256,"epochs":300,"initialisation":"default",'
    '"learning_rate":0.01,"momentum":0.9,"network":"convnet","optimiser":"sgd","schedule":"step","steps":[],'
    '"temperature":1.0,"weight_decay":0.0005,"weights":null}'
)
FULL = (
    '{"align_corners":true,"augmentation":"none","batch_size":256,"epochs":300,"initialisation":"pretrained",'
    '"learning_rate":0.01,"momentum":0.9,"network":"lenet","optimiser":"adamw","schedule":"cosine","steps":'
    '[{"epoch":0,"learning_rate":0.5,"step":1}],"temperature":1.0,"weight_decay":0.0005,"weights":{"count":2,'
    '"distribution":"xavier","held_out":false,"pretraining":{"batch_size":128,"decay_every":5,"epochs":10,'
    '"learning_rate":0.001,"name":"","source":""},"seed":0}}'
)
WRITTEN = {
    PLAIN: Recipe(),
    FULL: Recipe(
        network="lenet",
        optimiser="adamw",
        schedule="cosine",
        initialisation="pretrained",
        weights=StartingPool(distribution="xavier", count=2, pretraining=Pretraining()),
        steps=(ScheduledStep(epoch=0, step=1, learning_rate=0.5),),
    ),
}
NEW = {"loss": "kl-t2", "warmup": 5, "betas": (0.5, 0.9)}


@pytest.mark.parametrize("text", WRITTEN)
def test_an_old_recipe_is_read_and_written_back_to_the_byte(text: str):
    recipe = decode(Recipe, json.loads(text))
    assert recipe == WRITTEN[text]
    assert (recipe.loss, recipe.warmup, recipe.betas) == ("cross-entropy", 0, (0.9, 0.999))
    assert canonical(recipe) == text


@pytest.mark.parametrize("key", NEW)
def test_a_new_field_is_written_where_it_is_used(key: str):
    recipe = Recipe(**{key: NEW[key]})
    written = plain(recipe)
    assert set(written) == {*json.loads(PLAIN), key}
    assert decode(Recipe, written) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "l1"}, "loss: "),
        ({"warmup": -1}, "warmup: "),
        ({"betas": [0.9, 1.0]}, "betas.1: "),
        ({"betas": [0.9]}, "betas"),
        ({"optimiser": "lion"}, "optimiser: "),
    ],
)
def test_what_no_loop_can_do_is_refused(values: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        decode(Recipe, values)
