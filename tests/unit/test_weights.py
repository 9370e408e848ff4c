"""Starting weights: drawn, pre-trained, found by digest, and refused where they are not the ones that a set is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_core import artefacts, training
from dd_core.artefacts import Artefact, Resources
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import Context
from dd_core.errors import Diverged, OutOfResources, UserError
from dd_core.images import InputForm, LabelledImages
from dd_core.methods import method
from dd_core.recipe import Pretraining, Recipe, StartingPool
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training import accuracy, load_weights, starts, train
from dd_core.training.starts import identity_of, of_recipe, spec_of, weights_digest

CPU = torch.device("cpu")
NETWORK = "convnet-1-w8-nonorm"
BLOBS = blobs()
HOW = Pretraining(source=BLOBS.fingerprint(), epochs=4, batch_size=6, learning_rate=0.01)
START = {"steps": 2, "epochs": 2, "batch_real": 12, "recipe": {"network": NETWORK, "initialisation": "xavier"}}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def _pool(
    *, resources: object = None, workers: Workers | None = None, cache: Path | None = None, **options
) -> Artefact:
    weights = StartingPool(**{"distribution": "xavier", "count": 3, **options})
    spec = spec_of(Recipe(network=NETWORK), BLOBS.image_shape, 3, weights)
    return artefacts.get(spec, resources=resources, workers=workers, cache=cache)


def _network(pool: Artefact, index: int) -> torch.nn.Module:
    recipe = Recipe(network=NETWORK)
    return training.initialised(recipe, BLOBS.image_shape, 3, streams=Streams(0), start=pool, index=index).eval()


def _fixed(**options) -> DistilledSet:
    return distill(method("dataset-distillation", start="fixed", **{**START, **options}), BLOBS, Size(ipc=1))


def _other_blobs(*, side: int = 8) -> LabelledImages:
    return replace(blobs(per_class=10, side=side), name="other blobs")


def test_a_pool_is_what_the_recipes_initialisation_draws():
    pool = _pool()
    streams = Streams(0).child("starting-weights", 1)
    drawn = training.initialised(
        Recipe(network=NETWORK, initialisation="xavier"), BLOBS.image_shape, 3, streams=streams
    )
    for name, value in _network(pool, 1).state_dict().items():
        assert torch.equal(value, drawn.state_dict()[name])


def test_networks_seeds_and_held_out_pools_differ():
    first = [
        _network(pool, index).state_dict()["classifier.weight"]
        for pool, index in [(_pool(), 0), (_pool(), 1), (_pool(seed=1), 0), (_pool(held_out=True), 0)]
    ]
    for one in range(4):
        for other in range(one):
            assert not torch.equal(first[one], first[other])


def test_the_digest_of_weights_sees_names_types_shapes_and_values():
    values = np.arange(6, dtype=np.float32)
    states = [
        {"a": values.reshape(2, 3)},
        {"a": values.reshape(3, 2)},
        {"a": values.reshape(2, 3).view(np.int32)},
        {"b": values.reshape(2, 3)},
        {"a": values.reshape(2, 3) + 1},
    ]
    assert len({weights_digest(state) for state in states}) == 5
    assert weights_digest({"a": np.asfortranarray(values.reshape(2, 3))}) == weights_digest(states[0])


def test_an_evaluation_with_another_seed_has_other_held_out_networks():
    weights = StartingPool(distribution="xavier", count=1, seed=4, pretraining=HOW)
    recipe = Recipe(network=NETWORK, initialisation="pretrained", weights=weights)
    pools = [of_recipe(recipe, BLOBS.image_shape, 3, count=1, seed=seed, pretrain_on=BLOBS) for seed in (0, 2)]
    expected = [
        _pool(count=1, seed=4 + s, held_out=True, pretraining=HOW, resources=Resources.of([BLOBS])) for s in (0, 2)
    ]
    assert [pool.content for pool in pools] == [pool.content for pool in expected]
    assert pools[0].content != pools[1].content


def test_pretrained_networks_have_learnt_the_images_and_do_not_depend_on_the_workers(tmp_path: Path):
    resources = Resources.of([BLOBS])
    pool = _pool(pretraining=HOW, resources=resources)
    form = InputForm.of(BLOBS)
    assert accuracy(_network(pool, 2), BLOBS, form, device=CPU) == 1.0
    assert accuracy(_network(_pool(), 2), BLOBS, form, device=CPU) < 0.9
    together = _pool(pretraining=HOW, resources=resources, workers=Workers(count=2), cache=tmp_path / "other")
    assert together.content == pool.content


def test_the_rate_of_pretraining_is_halved_and_adams_first_step_is_the_rate():
    model = _network(_pool(), 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = HOW.model_copy(update={"epochs": 1, "batch_size": len(BLOBS), "learning_rate": 0.5})
    training.pretrain(model, BLOBS, how, streams=Streams(0), device=CPU)
    moved = (model.state_dict()["classifier.weight"] - before["classifier.weight"]).abs()
    assert moved.max().item() == pytest.approx(0.5, rel=1e-3)
    later = _network(_pool(), 0)
    how = how.model_copy(update={"epochs": 2, "decay_every": 1})
    training.pretrain(later, BLOBS, how, streams=Streams(0), device=CPU)
    second = (later.state_dict()["classifier.weight"] - model.state_dict()["classifier.weight"]).abs()
    assert second.max().item() < 0.4  # it would be 0.53


def test_pretraining_that_diverges_is_said():
    how = HOW.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(Diverged, match="pre-training loss is"):
        training.pretrain(_network(_pool(), 0), BLOBS, how, streams=Streams(0), device=CPU)


def test_pretraining_is_the_same_in_any_number_of_threads(tmp_path: Path):
    how = HOW.model_copy(update={"batch_size": 36, "epochs": 2})
    contents = {
        _pool(
            pretraining=how,
            resources=Resources.of([BLOBS]),
            workers=Workers(threads=threads),
            cache=tmp_path / str(threads),
        ).content
        for threads in (1, 2, 4)
    }
    assert len(contents) == 1


def test_a_pool_grows_and_keeps_the_networks_that_it_has(tmp_path: Path):
    small = _pool(count=2, cache=tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in small.folder.glob("part-*")}
    large = _pool(count=4, cache=tmp_path)
    assert large.folder == small.folder
    assert len(large) == 4
    assert {name: (large.folder / name).stat().st_mtime_ns for name in files} == files
    again = _pool(count=2, cache=tmp_path)
    assert (len(again), again.content) == (2, small.content)
    assert large.content != small.content


def test_the_digest_is_of_the_weights_and_not_of_their_file(tmp_path: Path):
    pool = _pool(count=1, cache=tmp_path)
    state = {name: value.numpy() for name, value in _network(pool, 0).state_dict().items()}
    assert identity_of(pool) == f"sha256:{weights_digest(state)}"
    state["classifier.bias"] = state["classifier.bias"] + 1
    assert identity_of(pool) != f"sha256:{weights_digest(state)}"


def test_images_to_pretrain_on_that_are_missing_or_of_another_form_are_refused():
    with pytest.raises(UserError, match="not at hand; give them as pretrain_on"):
        _pool(pretraining=HOW)
    large = _other_blobs(side=12)
    how = HOW.model_copy(update={"source": large.fingerprint()})
    with pytest.raises(
        UserError,
        match=r"for 3 classes of 1x8x8 images cannot be pre-trained on other blobs \(3 classes of 1x12x12 images\)",
    ):
        _pool(pretraining=how, resources=Resources.of([large]))


# --- sets and the weights that they are for ------------------------------------------------------------------------


def test_a_set_for_one_network_names_it_by_digest_and_is_trained_on_it_alone():
    ds = _fixed()
    recipe = ds.manifest.recipe
    pool = of_recipe(recipe, BLOBS.image_shape, 3, count=5)
    assert pool is not None
    assert recipe.initialisation == identity_of(pool)
    assert len(pool) == 1
    one, two = train(ds, seed=0), train(ds, seed=7)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    with pytest.raises(UserError, match=f"a {NETWORK} that starts from the weights sha256:.*, and not for convnet-2"):
        train(ds, network="convnet-2-w8")


def test_what_is_optimised_for_one_network_is_how_that_network_ends():
    config = method("dataset-distillation", start="fixed", **{**START, "batch_real": 36, "steps": 1})
    unrolling = config.build(Context.gather(config, BLOBS, Size(ipc=1), seed=0, device=CPU))
    model = train(unrolling.export())
    inputs = (BLOBS.images.float() / 255 - unrolling.form.mean[0]) / unrolling.form.std[0]
    expected = torch.nn.functional.cross_entropy(model(inputs), BLOBS.labels).item()
    assert unrolling.step(0)["loss"] == pytest.approx(expected, rel=1e-5)
    assert unrolling.step(1)["loss"] < expected  # the same network again, one Adam step later


def test_other_weights_than_those_of_the_digest_are_refused():
    ds = _fixed()
    recipe = ds.manifest.recipe.model_copy(update={"initialisation": "sha256:" + "0" * 64})
    wrong = replace(ds, manifest=ds.manifest.model_copy(update={"recipe": recipe}))
    with pytest.raises(
        UserError, match=r"is for a network with the weights sha256:000000000000\.\.\., and those made here"
    ):
        train(wrong)


def test_weights_that_are_gone_from_the_cache_are_made_again():
    ds = _fixed()
    before = train(ds).state_dict()
    artefacts.prune(everything=True)
    after = train(ds).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_pretrained_weights_that_are_gone_are_made_again_from_the_images():
    config = method("dataset-distillation", start="fixed-pretrained", pretraining={"epochs": 1}, **START)
    ds = distill(config, BLOBS, Size(ipc=1))
    before = train(ds).state_dict()
    artefacts.prune(everything=True)
    with pytest.raises(UserError, match="needs the images of 'blobs' with the fingerprint"):
        train(ds)
    after = train(ds, pretrain_on=BLOBS).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_does_not_go_on_from_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {**START, "steps": 6, "start": "random-pretrained", "pool": 2, "pretraining": {"epochs": 1}}
    config, out = method("dataset-distillation", **options), tmp_path / "set.safetensors"
    distill(config, BLOBS, Size(ipc=1), options=RunOptions(device="cpu"))  # the weights are there when the time begins
    with pytest.raises(OutOfResources):
        distill(config, BLOBS, Size(ipc=1), out=out, options=RunOptions(device="cpu", time_limit=0.0))
    artefacts.prune(everything=True)
    real = starts.pretrain
    monkeypatch.setattr(starts, "pretrain", lambda *a, **k: 0.0)  # as another torch would, it makes other weights
    with pytest.raises(UserError, match="the run began with other artefacts"):
        distill(config, BLOBS, Size(ipc=1), out=out, options=RunOptions(device="cpu"))
    artefacts.prune(everything=True)
    monkeypatch.setattr(starts, "pretrain", real)
    resumed = distill(config, BLOBS, Size(ipc=1), out=out, options=RunOptions(device="cpu"))
    whole = distill(config, BLOBS, Size(ipc=1), options=RunOptions(device="cpu"))
    assert np.array_equal(resumed.images, whole.images)
    assert resumed.manifest.provenance is not None
    assert len(resumed.manifest.provenance.artefacts) == 1


def test_what_cannot_be_is_refused_before_networks_are_trained_for_it():
    slow = {**START, "start": "random-pretrained"}
    for wrong, message in (
        ({"attack": ("blob 0", "x")}, "unknown class 'x'"),
        ({"blocks": 3}, "do not fall into 3 equal blocks"),
        ({"recipe": {"network": "convnet-1-batchnorm"}}, "has a BatchNorm2d"),
    ):
        with pytest.raises(UserError, match=message):
            distill(method("dataset-distillation", **{**slow, **wrong}), BLOBS, Size(ipc=1))
    assert artefacts.listing() == []


def test_the_same_images_to_pretrain_on_are_no_other_run(tmp_path: Path):
    config = method("dataset-distillation", start="fixed-pretrained", pretraining={"epochs": 1}, **START)
    out = tmp_path / "set.safetensors"
    made = distill(config, BLOBS, Size(ipc=1), out=out)
    assert distill(config, BLOBS, Size(ipc=1), out=out, pretrain_on=BLOBS).manifest == made.manifest


def test_a_recipe_without_its_weights_is_refused():
    with pytest.raises(UserError, match="needs the table weights"):
        Recipe(initialisation="pretrained")
    with pytest.raises(UserError, match="takes no weights"):
        Recipe(weights=StartingPool(distribution="default", count=1))
    with pytest.raises(UserError, match="'sha256:' and 64 digits"):
        Recipe(initialisation="sha256:abc")


def test_pretrained_networks_of_the_set_are_held_out_from_those_that_it_is_scored_on():
    config = method("dataset-distillation", start="random-pretrained", pool=2, pretraining={"epochs": 1}, **START)
    ds = distill(config, BLOBS, Size(ipc=1))
    recipe = ds.manifest.recipe
    assert recipe.initialisation == "pretrained"
    assert recipe.weights is not None
    assert recipe.weights.pretraining is not None
    assert recipe.weights.pretraining.source == BLOBS.fingerprint()
    pool = of_recipe(recipe, BLOBS.image_shape, 3, count=4, pretrain_on=BLOBS)
    assert pool is not None
    assert len(pool) == 4
    trained_on = config.needs(BLOBS, size=Size(ipc=1), seed=0)
    ours, theirs = artefacts.get(trained_on["starting weights"]).part(0)[0], pool.part(0)[0]
    assert not np.array_equal(ours["t0"], theirs["t0"])
    with pytest.raises(UserError, match="not at hand"):
        of_recipe(recipe, BLOBS.image_shape, 3, count=5)


def test_a_pool_draws_its_networks_by_the_seed_and_uses_all_of_them():
    options = {**START, "start": "random-pretrained", "pool": 3, "pretraining": {"epochs": 1}}
    config = method("dataset-distillation", **options)
    pool = Context.gather(config, BLOBS, Size(ipc=1), seed=0, device=CPU).artefacts["starting weights"]

    def drawn(seed: int) -> list[int]:
        unrolling = config.build(Context.gather(config, BLOBS, Size(ipc=1), seed=seed, device=CPU))
        heads = [_network(pool, index).state_dict()["classifier.weight"] for index in range(3)]
        found = [unrolling._network(draw).state_dict()["classifier.weight"] for draw in range(20)]
        return [next(i for i, head in enumerate(heads) if torch.equal(head, one)) for one in found]

    assert set(drawn(0)) == {0, 1, 2}
    assert drawn(0) == drawn(0) != drawn(1)


def test_networks_can_be_adapted_from_other_images():
    other = _other_blobs()
    config = method("dataset-distillation", start="fixed-pretrained", pretraining={"epochs": 1}, **START)
    ds = distill(config, BLOBS, Size(ipc=1), pretrain_on=other)
    assert ds.manifest.recipe.weights is not None
    assert ds.manifest.recipe.weights.pretraining is not None
    assert ds.manifest.recipe.weights.pretraining.source == other.fingerprint()
    own = distill(config, BLOBS, Size(ipc=1))
    assert own.manifest.recipe.initialisation != ds.manifest.recipe.initialisation
    with pytest.raises(UserError, match="start 'random' pre-trains no networks"):
        method("dataset-distillation").pretrained_on(other)
    with pytest.raises(UserError, match="method 'dm' pre-trains no networks"):
        method("dm").pretrained_on(other)


def test_an_attack_asks_for_the_other_class_and_leaves_the_rest():
    config = method("dataset-distillation", attack=("blob 2", "blob 0"), **START)
    unrolling = config.build(Context(BLOBS, Size(ipc=1), Streams(0), CPU))
    expected = BLOBS.labels.clone()
    expected[BLOBS.labels == 2] = 0
    assert torch.equal(unrolling.goals, expected)
    ds = unrolling.export()
    assert ds.manifest.attack == ("blob 2", "blob 0")
    assert ds.labels.tolist() == [0, 1, 2]
    for target, message in (
        ("blob 3", "unknown class 'blob 3'; did you mean"),
        ("blob 0", "is named twice; name two different classes"),
    ):
        wrong = method("dataset-distillation", attack=("blob 0", target), **START)
        with pytest.raises(UserError, match=message):
            wrong.build(Context(BLOBS, Size(ipc=1), Streams(0), CPU))


def test_loading_weights_of_another_network_is_an_error():
    with pytest.raises(RuntimeError):
        load_weights(torch.nn.Linear(2, 2), _pool(), 0)
