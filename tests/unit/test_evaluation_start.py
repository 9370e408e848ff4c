"""Where the networks start that a set is scored on: where the set means them to, unless another start is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dd_core import artefacts
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.evaluation import Evaluation, evaluate, protocols, twins
from dd_core.evaluation.checks import attacked
from dd_core.evaluation.protocols.wang import WangGridProtocol
from dd_core.evaluation.tuning import validation_split
from dd_core.images import LabelledImages
from dd_core.methods import method
from dd_core.recipe import Pretraining, Recipe, ScheduledStep, StartingPool
from dd_core.runner import distill
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training import TrainingData, accuracy, fit, train, training_data
from dd_core.training import starts as weights
from dd_core.training.starts import pretrained_on

NETWORK = "convnet-1-w8-nonorm"
RECIPE = {"network": NETWORK, "initialisation": "xavier"}
BLOBS = blobs(per_class=20)
TEST = replace(BLOBS.subset(torch.arange(30)), name="blobs")
HOW = {"epochs": 2, "batch_size": 10, "learning_rate": 0.01}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_APPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def distilled(start: str, source: LabelledImages = BLOBS, **options: Any) -> DistilledSet:
    options = {"steps": 30, "epochs": 3, "lr_img": 0.1, "pool": 2, "pretraining": HOW, "recipe": RECIPE, **options}
    other = options.pop("pretrain_on", None)
    return distill(method("dataset-distillation", start=start, **options), source, Size(ipc=1), pretrain_on=other)


def twin(ds: DistilledSet, source: LabelledImages, *, seed: int, index: int) -> TrainingData:
    labeller = twins.HardLabels(attacked(ds))
    return twins.draw(ds, source, labeller=labeller, streams=Streams(seed), index=index).data()


def scored(ds: DistilledSet, **options: Any) -> Evaluation:
    return evaluate(ds, **{"train": BLOBS, "test": TEST, "nets": 3, "device": "cpu", **options})


@pytest.fixture(scope="module")
def fixed() -> DistilledSet:
    return distilled("fixed")


@pytest.fixture(scope="module")
def pretrained() -> DistilledSet:
    return distilled("random-pretrained")


def test_a_set_for_one_network_has_one_score_and_its_twins_start_there_too(fixed: DistilledSet):
    found = scored(fixed)
    alone = accuracy(train(fixed, device="cpu"), TEST, fixed.input_form(), device=torch.device("cpu"))
    assert found.accuracy.per_network == (alone,)
    assert len(found.random_real.per_network) == 3
    assert found.start == found.made_for == fixed.manifest.recipe.initialisation
    assert found.before is None
    still = Recipe(**RECIPE, steps=(ScheduledStep(epoch=0, step=0, learning_rate=1e-12),)).steps
    recipe = fixed.manifest.recipe.model_copy(update={"steps": still})
    unmoved = replace(fixed, manifest=fixed.manifest.model_copy(update={"recipe": recipe}))
    assert len(set(scored(unmoved).random_real.per_network)) == 1  # as the one network does that they all start from


def test_it_is_refused_as_one_for_other_networks_and_scored_on_others_only_on_request(fixed: DistilledSet):
    with pytest.raises(UserError, match="this set is for one network, a convnet-1-w8-nonorm that starts from"):
        scored(fixed, network="convnet-2-w8")
    found, elsewhere = scored(fixed), scored(fixed, start="xavier")
    assert (elsewhere.start, elsewhere.made_for) == ("xavier", fixed.manifest.recipe.initialisation)
    assert (found.as_meant, elsewhere.as_meant) == (True, False)
    assert len(elsewhere.accuracy.per_network) == 3
    assert scored(fixed, start="default", network="convnet-2-w8").network == "convnet-2-w8"
    with pytest.raises(UserError, match=r"unknown start 'fixed'.*known: default, pretrained, xavier"):
        scored(fixed, start="fixed")


def test_a_set_for_pretrained_networks_is_scored_on_held_out_ones(pretrained: DistilledSet):
    found = scored(pretrained)
    assert (found.start, found.made_for) == ("pretrained", "pretrained")
    assert found.before is not None
    specs = [row["spec"]["weights"] for row in artefacts.listing() if row["spec"]["weights"]["pretraining"]]
    assert {(spec["held_out"], spec["count"]) for spec in specs} >= {(False, 2), (True, 3)}
    recipe = pretrained.manifest.recipe
    untouched = pretrained.manifest.model_copy(
        update={
            "recipe": recipe.model_copy(
                update={"steps": tuple(one.model_copy(update={"learning_rate": 1e-12}) for one in recipe.steps)}
            )
        }
    )
    again = scored(replace(pretrained, manifest=untouched))
    assert again.accuracy == again.before == found.before  # without learning, networks stay as they were


def test_networks_that_choose_are_others_than_those_that_are_scored_and_another_seed_has_others_yet(
    monkeypatch: pytest.MonkeyPatch,
):
    """The pool has first those that are scored, and then those that choose: compared with both trained by hand."""
    monkeypatch.setattr(WangGridProtocol, "grid", {"learning_rate": (0.01, 0.1), "epochs": (1,)})
    noise = torch.randint(0, 256, BLOBS.images.shape, generator=torch.Generator().manual_seed(3))
    source = replace(BLOBS, images=(0.2 * BLOBS.images + 0.8 * noise).to(torch.uint8))
    ds = distill(method("random", recipe=RECIPE), source, Size(ipc=1))
    given = {"train": source, "test": source, "protocol": "wang-grid", "start": "pretrained", "nets": 2}
    found = {seed: scored(ds, **given, seed=seed) for seed in (0, 5)}
    assert found[0].before != found[5].before
    result = found[5]
    recipe = (
        protocols.load("wang-grid")
        .recipe(ds.manifest.recipe, source_name="blobs")
        .model_copy(update={"initialisation": "pretrained", "weights": result.weights})
    )
    pool = weights.of_recipe(recipe, source.image_shape, 3, count=4, seed=5, pretrain_on=source, device="cpu")
    rest, held = validation_split(source, Streams(5))
    assert result.chosen is not None
    chosen = {key: value for key, value in result.chosen["accuracy"].items() if key != "validation"}
    own, data = recipe.model_copy(update=chosen), training_data(ds, recipe)
    settings = result.chosen["random_real"]
    theirs = recipe.model_copy(update={key: value for key, value in settings.items() if key != "validation"})

    def score(index: int, test: LabelledImages, how: Recipe = own, data: TrainingData = data) -> float:
        cpu = torch.device("cpu")
        model = fit(data, NETWORK, how, streams=Streams(0), device=cpu, start=pool, index=index)
        return accuracy(model, test, ds.input_form(), device=cpu)

    assert result.accuracy.per_network == tuple(score(index, source) for index in (0, 1))
    real = [twin(ds, rest, seed=5, index=index) for index in (0, 1)]
    assert result.random_real.per_network == tuple(score(i, source, theirs, data) for i, data in enumerate(real))
    validation = result.chosen["accuracy"]["validation"]
    assert validation == pytest.approx((score(2, held) + score(3, held)) / 2)
    assert validation != pytest.approx((score(0, held) + score(1, held)) / 2), "others choose by another figure"


def test_workers_change_nothing(pretrained: DistilledSet):
    alone = scored(pretrained, seed=3)
    artefacts.prune(everything=True)
    assert scored(pretrained, seed=3, workers=Workers(count=2)) == alone


def test_any_set_can_be_scored_on_pretrained_networks():
    ds = distill(method("random", recipe={**RECIPE, "epochs": 2}), BLOBS, Size(ipc=1))
    found = scored(ds, start="pretrained")
    assert (found.start, found.made_for) == ("pretrained", "xavier")
    assert found.before is not None
    assert len(found.before.per_network) == 3


def test_adaptation_needs_the_images_that_networks_were_pretrained_on():
    other = replace(blobs(per_class=15), name="other blobs")
    ds = distilled("random-pretrained", pretrain_on=other)
    with pytest.raises(UserError, match="not at hand; give them as pretrain_on"):
        scored(ds)
    with pytest.raises(UserError, match=r"pre-trained on 'other blobs' \(fingerprint .*\), and not on 'blobs'"):
        scored(ds, pretrain_on=BLOBS)
    assert scored(ds, pretrain_on=other).start == "pretrained"
    assert scored(ds).start == "pretrained", "the pool is in the cache now"
    meant = scored(ds)
    assert scored(ds, start="pretrained") == meant, "the same in other words"
    elsewhere = scored(ds, pretrain_on=BLOBS, start="pretrained")
    assert (meant.as_meant, elsewhere.as_meant) == (True, False)
    sources = [one.weights.pretraining.source for one in (meant, elsewhere)]
    assert sources == [other.fingerprint(), BLOBS.fingerprint()]


def test_a_pool_can_be_described():
    ds = distill(method("random", recipe={**RECIPE, "epochs": 2}), BLOBS, Size(ipc=1))
    weights = StartingPool(distribution="xavier", count=1, pretraining=Pretraining(epochs=3, batch_size=10))
    found = scored(ds, start=weights)
    assert found.weights is not None
    assert found.weights.pretraining == pretrained_on(BLOBS, weights.pretraining)
    assert not found.as_meant


def test_images_to_pretrain_on_are_refused_where_nothing_is_pretrained(fixed: DistilledSet):
    with pytest.raises(UserError, match="no network is pre-trained for this; leave out the images of 'blobs'"):
        scored(fixed, pretrain_on=BLOBS)
    ds = distill(method("random", recipe={**RECIPE, "epochs": 2}), BLOBS, Size(ipc=1))
    with pytest.raises(UserError, match="no network is pre-trained for this; leave out the images of 'blobs'"):
        scored(ds, pretrain_on=BLOBS)


def test_an_attack_is_scored_by_where_the_attacked_class_goes():
    ds = distilled("random", attack=("blob 2", "blob 0"), steps=150)
    found = scored(ds)
    assert found.attack is not None
    assert found.attack.classes == ("blob 2", "blob 0")
    assert found.attack.success.mean > 0.8
    assert found.attack.others.mean > 0.8
    assert found.accuracy.mean == pytest.approx(2 / 3, abs=0.15)  # the true labels of the attacked class are missed
    weights = torch.tensor([2 / 3, 1 / 3])  # a third of the test images is of the attacked class
    for net, total in enumerate(found.accuracy.per_network):
        attacked = total - weights[0].item() * found.attack.others.per_network[net]
        assert attacked <= weights[1].item() * (1 - found.attack.success.per_network[net]) + 1e-6
    elsewhere = replace(ds, manifest=ds.manifest.model_copy(update={"attack": ("blob 2", "blob 1")}))
    missed = scored(elsewhere).attack
    assert missed is not None
    assert missed.success.mean < 0.2  # that class 2 is taken for class 0 is no success where class 1 is meant
    plain = distilled("random", steps=1)
    assert scored(plain).attack is None
    # relabelled as the set's images are: class 2 is to be taken for class 0
    assert [twin(each, BLOBS, seed=0, index=0).labels.tolist() for each in (ds, plain)] == [[0, 1, 0], [0, 1, 2]]
    for protocol in ("wang-grid", "knn"):
        with pytest.raises(
            UserError, match=f"protocol '{protocol}' chooses settings by accuracy, which an attack lowers"
        ):
            scored(ds, protocol=protocol)
    others = replace(TEST.subset((TEST.labels != 2).nonzero().flatten()), name="two blobs")
    with pytest.raises(UserError, match="attacks class 'blob 2', of which two blobs has no test image"):
        scored(ds, test=others)
