"""Scores and their random-real twins."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dd_core import selection, zca
from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
from dd_core.errors import UserError
from dd_core.evaluation import Score, evaluate, protocols, twins
from dd_core.evaluation.neighbours import NearestNeighbours
from dd_core.evaluation.protocols import challenge, names
from dd_core.evaluation.protocols.recipes import DATMSoftProtocol
from dd_core.evaluation.protocols.wang import WangGridProtocol
from dd_core.evaluation.tuning import best, validation_split
from dd_core.evaluation.twins import HardLabels
from dd_core.images import InputForm, LabelledImages
from dd_core.methods import method
from dd_core.recipe import Recipe, StartingPool
from dd_core.runner import distill
from dd_core.streams import Streams, generator
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training import TrainingData, accuracy, fit, training_data

RECIPE = {"network": "convnet-2-w16", "epochs": 15, "learning_rate": 0.02}


def twin(ds: DistilledSet, train: LabelledImages, streams: Streams, index: int) -> TrainingData:
    """The twin that network `index` is trained on."""
    return twins.draw(ds, train, labeller=HardLabels(), streams=streams, index=index).data()


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
    assert Score.of([0.3]).std is None


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
    from dd_core.selection import real_set

    ds = scored[0]
    drawn = twin(ds, train, Streams(2), 0)
    pixels = ds.manifest.pixels
    raw = (drawn.inputs * torch.tensor(pixels.std[0]) + torch.tensor(pixels.mean[0])) * 255
    same = real_set(train, raw.round().to(torch.uint8), (2, 2, 2), ds.manifest.recipe)
    again = evaluate(same, train=train, test=test, nets=1, seed=2)
    assert again.accuracy.per_network[0] == result.random_real.per_network[0]


def test_the_result_is_determined_by_the_seed(scored):
    ds, train, test, result = scored
    assert evaluate(ds, train=train, test=test, nets=3, seed=2) == result
    assert evaluate(ds, train=train, test=test, nets=3, seed=3).random_real != result.random_real


@pytest.mark.parametrize("protocol", names())
def test_every_protocol_gives_a_recipe(protocol: str, scored):
    own = scored[0].manifest.recipe
    recipe = protocols.load(protocol).recipe(own, source_name="digits")
    assert (recipe == own) == (protocol in ("recipe", "knn"))
    assert "flip" not in recipe.augmentation
    assert recipe.network == ("convnet-3" if protocol == "challenge-2024" else own.network)


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
        ({"protocol": "knn", "network": "lenet"}, "protocol 'knn' trains no network, and 'lenet' is given"),
        ({"test": blobs(classes=2)}, "the set has the classes blob 0, blob 1, blob 2, and blobs has blob 0, blob 1"),
        ({"test": blobs(side=10)}, "the set has 1x8x8 images (C x H x W), and blobs has 1x10x10"),
    ],
)
def test_what_does_not_fit_is_refused(scored, changes, message: str):
    ds, train, test, _ = scored
    with pytest.raises(UserError) as caught:
        evaluate(ds, **{"train": train, "test": test, "nets": 1, **changes})
    assert str(caught.value).startswith(message)


# --- the challenge ---------------------------------------------------------------------------------------------


def soft(train, *, labels: list[int], whitened: bool = False) -> DistilledSet:
    """Two images a class, whose soft labels say that each is of the class after its own."""
    whitening = zca.fit(train) if whitened else None
    form = InputForm.of(train, whitening)
    rows = torch.cat([(train.labels == label).nonzero()[:2, 0] for label in range(3)])
    manifest = Manifest(
        classes=train.classes,
        pixels=Pixels(space="whitened" if whitened else "normalised", mean=form.mean, std=form.std),
        targets="logits",
        recipe=Recipe(network="convnet-1-w8", learning_rate=0.5, temperature=3.0),
    )
    targets = 9 * np.eye(3, dtype=np.float32)[(np.array(labels) + 1) % 3]
    return DistilledSet(form(train.images[rows]).numpy(), np.array(labels), manifest, targets, whitening)


def test_the_challenge_takes_images_alone_and_labels_them_by_their_place(scored, monkeypatch: pytest.MonkeyPatch):
    _, train, test, _ = scored
    for protocol in (DATMSoftProtocol, challenge.Challenge2024Protocol):
        monkeypatch.setattr(protocol, "changes", {**protocol.changes, "epochs": 60})
    ds = soft(train, labels=[0, 0, 1, 1, 2, 2])
    seen = protocols.load("challenge-2024").prepare(ds, train=train)
    assert seen.targets is None
    assert seen.manifest.targets == "none"
    assert np.array_equal(seen.images, ds.images)
    assert protocols.load("datm-soft").prepare(ds, train=train) is ds
    whitened = protocols.load("challenge-2024").prepare(
        soft(train, labels=[0, 0, 1, 1, 2, 2], whitened=True), train=train
    )
    assert whitened.whitening is None
    assert whitened.manifest.pixels == ds.manifest.pixels
    assert np.allclose(whitened.images, ds.images, atol=1e-3)
    with pytest.raises(UserError, match="labels images by their place, class after class; this set is in another"):
        protocols.load("challenge-2024").prepare(soft(train, labels=[0, 1, 1, 0, 2, 2]), train=train)
    own, theirs = (
        evaluate(ds, train=train, test=test, nets=1, protocol=name, network="convnet-1-w8").accuracy.mean
        for name in ("datm-soft", "challenge-2024")
    )
    assert own < 0.3 < 0.4 < theirs, "what the soft labels say does not get there"


def test_the_challenge_normalises_its_own_data_sets_in_its_own_way():
    classes = tuple(map(str, range(100)))
    pixels = Pixels(space="normalised", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    images = np.random.default_rng(0).normal(size=(100, 3, 32, 32)).astype(np.float32)
    ds = DistilledSet(images, np.arange(100), Manifest(classes=classes, pixels=pixels, recipe=Recipe()))
    seen = protocols.load("challenge-2024").prepare(ds, train=blobs())
    assert seen.manifest.pixels.std == (0.2673, 0.2564, 0.2762)
    red = (images[:, 0] * 0.2 + 0.5 - 0.5071) / 0.2673
    assert np.allclose(seen.images[:, 0], red, atol=1e-5)


def test_the_recipes_of_datm_and_the_challenge_are_theirs():
    own = Recipe(network="convnet-2-w8", learning_rate=0.5, augmentation="flip", temperature=3.0)
    datm = protocols.load("datm-soft").recipe(own, source_name="cifar10")
    assert (datm.learning_rate, datm.batch_size, datm.epochs, datm.network) == (0.5, 128, 1001, "convnet-2-w8")
    theirs = protocols.load("challenge-2024").recipe(own, source_name="cifar10")
    assert (theirs.learning_rate, theirs.batch_size, theirs.network) == (0.01, 256, "convnet-3")
    assert (theirs.align_corners, theirs.augmentation) == (False, "color_crop_cutout_flip_scale_rotate")
    weights = {"distribution": "default", "count": 1}
    pretrained = own.model_copy(update={"initialisation": "pretrained", "weights": StartingPool(**weights)})
    fresh = protocols.load("challenge-2024").recipe(pretrained, source_name="cifar10")
    assert (fresh.initialisation, fresh.weights) == ("default", None)
    one = Recipe(network="convnet-3", initialisation="sha256:" + 64 * "0", weights=weights)
    with pytest.raises(UserError, match="protocol 'challenge-2024' trains a convnet-3, and this set is for one conv"):
        protocols.load("challenge-2024").recipe(one, source_name="mnist")


LABELS = {"loss": "cross-entropy", "warmup": 0}
SGD = {"optimiser": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256, **LABELS}
DSA = {"schedule": "step", "epochs": 1001, "augmentation": "color_crop_cutout_scale_rotate"}
DESCENT = {"momentum": 0.0, "weight_decay": 0.0, "batch_size": 10**9, "schedule": "constant", "augmentation": "none"}


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [
        ("recipe", {}),
        ("knn", {}),
        ("plain-300", {**SGD, "schedule": "step", "epochs": 300, "augmentation": "none"}),
        ("dm-1000", {**SGD, **DSA}),
        ("mtt-1000", {**SGD, **DSA, "learning_rate": 0.123}),
        ("datm-soft", {**SGD, **DSA, "learning_rate": 0.123, "batch_size": 128}),
        (
            "challenge-2024",
            {**SGD, **DSA, "network": "convnet-3", "align_corners": False, "temperature": 1.0},
        ),
        ("wang-grid", {"optimiser": "sgd", **DESCENT, **LABELS}),
    ],
)
def test_a_protocol_changes_the_set_s_recipe_in_these_fields_alone(protocol: str, changes: dict[str, object]):
    own = Recipe(
        network="lenet",
        optimiser="adamw",
        learning_rate=0.123,
        momentum=0.3,
        weight_decay=0.4,
        schedule="cosine",
        epochs=77,
        batch_size=9,
        augmentation="crop",
        temperature=4.0,
        loss="kl",
        warmup=3,
    )
    assert protocols.load(protocol).recipe(own, source_name="digits") == own.model_copy(update=changes)


def test_the_challenge_has_statistics_of_its_own_for_tiny_imagenet_too():
    pixels = Pixels(space="normalised", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    images = np.zeros((200, 3, 64, 64), dtype=np.float32)
    ds = DistilledSet(
        images, np.arange(200), Manifest(classes=tuple(map(str, range(200))), pixels=pixels, recipe=Recipe())
    )
    seen = protocols.load("challenge-2024").prepare(ds, train=blobs()).manifest.pixels
    assert (seen.mean, seen.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# --- protocols with a choice ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["knn", "wang-grid"])
def choice(request: pytest.FixtureRequest, scored):
    """(protocol, set, train, test, its evaluation)."""
    _, train, test, _ = scored
    recipe = {"network": "convnet-1-w8-nonorm", "initialisation": "xavier"}
    ds = distill(method("random", recipe=recipe), train, Size(ipc=2), seed=9)
    return request.param, ds, train, test, evaluate(ds, train=train, test=test, protocol=request.param, nets=2, seed=4)


def test_the_settings_are_those_of_the_paper_and_k_is_at_most_the_images():
    wang = protocols.load("wang-grid").settings(images=3)
    assert len(wang) == 36
    assert {one["epochs"] for one in wang} == {1, 3, 5, 10, 30, 50}
    assert [one["k"] for one in protocols.load("knn").settings(images=3)] == [1, 1, 3, 3]
    assert protocols.load("recipe").settings(images=3) == []


def test_wang_is_plain_gradient_descent_on_the_whole_set_from_its_own_initialisation():
    own = Recipe(initialisation="xavier", augmentation="flip", momentum=0.5, batch_size=2)
    recipe = protocols.load("wang-grid").recipe(own, source_name="digits")
    assert (recipe.optimiser, recipe.momentum, recipe.weight_decay) == ("sgd", 0, 0)
    assert (recipe.schedule, recipe.augmentation, recipe.steps) == ("constant", "none", ())
    assert recipe.initialisation == "xavier"
    assert recipe.batch_size >= 10**6


def test_what_was_chosen_is_reported_and_the_score_is_that_of_the_setting(choice):
    """Networks (or neighbours) of the chosen setting, trained here by hand, score what is reported."""
    protocol, ds, train, test, result = choice
    assert result.chosen is not None
    assert result.chosen.keys() == {"accuracy", "random_real"}
    assert all(one.keys() == {*protocols.load(protocol).grid, "validation"} for one in result.chosen.values())
    assert json.loads(result.model_dump_json())["chosen"] == result.chosen
    streams, form = Streams(4), ds.input_form()
    rest, _ = validation_split(train, streams)
    recipe = protocols.load(protocol).recipe(ds.manifest.recipe, source_name="blobs")
    for who, score in (("accuracy", result.accuracy), ("random_real", result.random_real)):
        setting = {key: value for key, value in result.chosen[who].items() if key != "validation"}
        for index, value in enumerate(score.per_network):
            data = training_data(ds, recipe) if who == "accuracy" else twin(ds, rest, streams, index)
            if protocol == "knn":
                model = NearestNeighbours(data, **setting)
            else:
                own, seeds = recipe.model_copy(update=setting), Streams(streams.child("network", index).seed)
                model = fit(data, own.network, own, streams=seeds, device=torch.device("cpu"))
            assert accuracy(model, test, form, device=torch.device("cpu")) == value


def test_no_setting_does_better_on_the_validation_images(choice):
    protocol, ds, train, _, result = choice
    streams = Streams(4)
    _, held = validation_split(train, streams)
    recipe = protocols.load(protocol).recipe(ds.manifest.recipe, source_name="blobs")
    data, cpu = training_data(ds, recipe), torch.device("cpu")
    means = []
    for setting in protocols.load(protocol).settings(images=len(ds)):
        scores = []
        for index in range(2):
            seeds = Streams(streams.child("choosing").child("network", index).seed)
            own = recipe.model_copy(update=setting)
            model = (
                NearestNeighbours(data, **setting)
                if protocol == "knn"
                else fit(data, own.network, own, streams=seeds, device=cpu)
            )
            scores.append(accuracy(model, held, ds.input_form(), device=cpu))
        means.append(sum(scores) / 2)
    assert len(set(means)) > 1
    assert result.chosen["accuracy"]["validation"] == pytest.approx(max(means), abs=1e-12)


def test_twins_are_never_among_the_validation_images_and_those_that_choose_are_others(choice, monkeypatch):
    protocol, ds, train, test, _ = choice
    drawn: list[frozenset[bytes]] = []

    def spy(source, counts, **options):
        chosen = selection_random_indices(source, counts, **options)
        drawn.append(frozenset(image.numpy().tobytes() for image in source.take(chosen)))
        return chosen

    selection_random_indices = selection.random_indices
    monkeypatch.setattr(selection, "random_indices", spy)
    evaluate(ds, train=train, test=test, protocol=protocol, nets=2, seed=4)
    _, held = validation_split(train, Streams(4))
    assert len(set(drawn)) == len(drawn) == 4
    assert not frozenset().union(*drawn) & {image.numpy().tobytes() for image in held.images}


def test_the_choice_does_not_depend_on_the_test_images_nor_anything_on_the_workers(choice):
    protocol, ds, train, test, result = choice
    again = evaluate(ds, train=train, test=test, protocol=protocol, nets=2, seed=4, workers=Workers(count=2))
    assert again == result
    blank = LabelledImages(torch.zeros_like(test.images), test.labels, test.classes, test.name)
    other = evaluate(ds, train=train, test=blank, protocol=protocol, nets=2, seed=4)
    assert other.chosen == result.chosen
    assert other.accuracy != result.accuracy


def test_neighbours_give_a_set_one_score_and_its_twins_one_each(scored):
    ds, train, test, _ = scored
    result = evaluate(ds, train=train, test=test, protocol="knn", nets=3)
    assert (result.network, len(result.accuracy.per_network), len(result.random_real.per_network)) == ("k-nn", 1, 3)
    assert result.accuracy.std is None
    assert 0.4 < result.random_real.mean < 1


def test_neighbours_vote_under_the_norm_that_is_asked_for():
    """From (0, 0), (3, 3) is nearer than (5, 0) by p = 2, and farther by p = 1."""
    points = torch.tensor([[3.0, 3.0], [5.0, 0.0], [6.0, 0.0]]).view(3, 1, 1, 2)
    data = TrainingData(points, torch.tensor([0, 1, 1]), None, 2)
    origin = torch.zeros(1, 1, 1, 2)
    found = {(k, p): NearestNeighbours(data, k=k, p=p)(origin).tolist() for k in (1, 3) for p in (1, 2)}
    assert found == {(1, 1): [[0, 1]], (1, 2): [[1, 0]], (3, 1): [[0, 1]], (3, 2): [[0, 1]]}


def test_neighbours_of_a_set_with_soft_targets_have_its_labels(scored):
    ds, train, test, _ = scored
    manifest = ds.manifest.model_copy(update={"targets": "probabilities"})
    soft = DistilledSet(ds.images, ds.labels, manifest, torch.full((6, 3), 1 / 3).numpy())
    hard, softly = (evaluate(one, train=train, test=test, protocol="knn", nets=1) for one in (ds, soft))
    assert softly.accuracy == hard.accuracy


def test_the_first_of_the_best_settings_is_chosen():
    settings = [{"epochs": 1}, {"epochs": 3}, {"epochs": 5}]
    assert best(settings, [[0.1, 0.6, 0.4], [0.1, 0.2, 0.4]]) == ({"epochs": 3}, pytest.approx(0.4))
    assert best(settings, [[0.1, 0.9, 0.4], [0.1, 0.3, 0.4], [0.1, 0.3, 0.4]]) == ({"epochs": 3}, pytest.approx(0.5))


def test_a_tenth_of_every_class_is_for_validation_and_the_rest_is_not_among_it():
    source = blobs(per_class=30)
    rest, held = validation_split(source, Streams(3))
    assert (torch.bincount(held.labels).tolist(), torch.bincount(rest.labels).tolist()) == ([3] * 3, [27] * 3)
    every = {image.numpy().tobytes() for part in (rest, held) for image in part.images}
    assert len(every) == len({image.numpy().tobytes() for image in source.images}) == 90
    other = validation_split(source, Streams(4))[1]
    assert not torch.equal(held.images, other.images)


def test_a_setting_that_diverges_is_not_chosen(scored, monkeypatch):
    ds, train, test, _ = scored
    monkeypatch.setattr(WangGridProtocol, "grid", {"learning_rate": (1e30, 0.01), "epochs": (5,)})
    result = evaluate(ds, train=train, test=test, protocol="wang-grid", nets=1)
    assert result.chosen is not None
    assert {one["learning_rate"] for one in result.chosen.values()} == {0.01}
    assert evaluate(ds, train=train, test=test, nets=1).chosen is None
