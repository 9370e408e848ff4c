"""A teacher whose weights came in somebody's file: the very network, whatever the file, and never another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dd_apps import scenario
from dd_apps.continual import DistilledBuffer
from dd_apps.distillation import DistillScenario
from dd_core import artefacts, datasets, exchange, networks, runner, store
from dd_core.artefacts import Resources
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.evaluation import evaluate
from dd_core.images import InputForm
from dd_core.methods import decode_method, method
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions
from dd_core.testing import blobs
from dd_core.training.initial import require_pure
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec, network_of

NETWORK = "convnet-1-w8-batchnorm"
TRAINED = TeacherConfig(network=NETWORK, epochs=2, batch_size=10)
CPU = RunOptions(device="cpu")


def trained() -> artefacts.Artefact:
    return artefacts.get(TeacherSpec.of(blobs(), TRAINED), resources=Resources.of([blobs()], device="cpu"))


def state() -> dict[str, torch.Tensor]:
    return network_of(trained()).state_dict()


def given(weights: str, *, epochs: int = 0) -> TeacherConfig:
    return TeacherConfig(network=NETWORK, weights=weights, epochs=epochs, batch_size=10)


def sre2l(teacher: TeacherConfig):
    return method("sre2l", teacher=teacher.model_dump(), recover={"iterations": 3}, recipe={"epochs": 2})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"epoch": 2, "state_dict": state()}, tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


def test_the_same_weights_have_one_name_in_any_file_and_any_order(file: Path, tmp_path: Path):
    other = tmp_path / "teacher.safetensors"
    save_file(dict(reversed(state().items())), other)
    name = exchange.keep_weights(file)
    assert name == exchange.keep_weights(other)
    changed = state()
    changed["classifier.bias"] = changed["classifier.bias"] + 1e-7
    torch.save(changed, file)
    assert exchange.keep_weights(file) != name


def test_a_teacher_as_it_is_in_a_file_is_the_network_that_was_saved(file: Path):
    config = exchange.with_weights_kept(given(str(file)))
    teacher = artefacts.get(TeacherSpec.of(blobs(), config), resources=Resources.of([blobs()], device="cpu"))
    for name, value in state().items():
        assert torch.equal(network_of(teacher).state_dict()[name], value), name
    assert teacher.part(0)[1]["accuracy"] == trained().part(0)[1]["accuracy"]
    assert teacher.part(0)[1]["loss"] is None, "it was not trained"


def test_training_begins_with_the_weights_of_the_file(file: Path):
    config = exchange.with_weights_kept(given(str(file), epochs=1))
    spec = TeacherSpec.of(blobs(), config)
    teacher = artefacts.get(spec, resources=Resources.of([blobs()], device="cpu"))
    model = spec.fresh()
    model.load_state_dict(state())
    loop = spec.loop(model, blobs(), InputForm.of(blobs()), device=torch.device("cpu"))
    loop.run()
    for name, value in model.state_dict().items():
        assert torch.equal(network_of(teacher).state_dict()[name], value), name


def test_a_set_recovered_from_a_file_is_the_one_recovered_from_that_teacher(file: Path, tmp_path: Path, call):
    ours = runner.distill(sre2l(TRAINED), blobs(), Size(ipc=1), options=CPU)
    theirs = runner.distill(exchange.with_weights_kept(sre2l(given(str(file)))), blobs(), Size(ipc=1), options=CPU)
    assert np.array_equal(ours.images, theirs.images)
    assert theirs.manifest.provenance is not None
    weights = theirs.manifest.provenance.config["teacher"]["weights"]
    assert weights == exchange.keep_weights(file), "a set names weights, and no path"


def test_a_command_takes_the_file(tmp_path: Path, call):
    out, file = tmp_path / "set.safetensors", tmp_path / "digits.pt"
    network = TeacherConfig(network=NETWORK, epochs=1)
    digits = datasets.load("digits", split="train")
    teacher = artefacts.get(TeacherSpec.of(digits, network), resources=Resources.of([digits], device="cpu"))
    torch.save(network_of(teacher).state_dict(), file)
    settings = [f"teacher.weights={file}", f"teacher.network={NETWORK}", "teacher.epochs=0", "recover.iterations=2"]
    flags = [word for setting in settings for word in ("--set", setting)]
    code, _, err = call("distill", "sre2l", "--data", "digits", "--ipc", 1, "--out", out, *flags)
    assert code == 0, err
    provenance = store.read_set(out).manifest.provenance
    assert provenance is not None
    assert provenance.config["teacher"]["weights"] == exchange.keep_weights(file)


def test_a_buffer_takes_the_file(file: Path):
    buffer = DistilledBuffer(max_size=6, images_per_class=1, method=sre2l(given(str(file))), fill=1)
    assert buffer.config.teacher.weights == exchange.keep_weights(file)  # type: ignore[attr-defined]


def test_weights_of_another_network_are_refused_before_training(file: Path):
    config = exchange.with_weights_kept(given(str(file)).model_copy(update={"network": "convnet-1-w16-batchnorm"}))
    with pytest.raises(UserError, match=r"teacher\.weights: not the weights of this network"):
        artefacts.get(TeacherSpec.of(blobs(), config), resources=Resources.of([blobs()], device="cpu"))


def test_weights_that_a_cache_lacks_are_asked_for(file: Path, tmp_path: Path):
    spec = TeacherSpec.of(blobs(), exchange.with_weights_kept(given(str(file))))
    with pytest.raises(UserError, match=r"the weights sha256:\w{12}\.\.\. are not in this cache; give the file"):
        artefacts.get(spec, resources=Resources.of([blobs()], device="cpu"), cache=tmp_path / "empty")


def test_a_file_that_was_not_kept_is_no_name():
    with pytest.raises(UserError, match=r"exchange\.keep_weights"):
        TeacherSpec.of(blobs(), given("teacher.pth"))


@pytest.mark.parametrize("weights", ["imagenet", "sha256:12", "teacher.bin", ""])
def test_weights_that_are_nowhere_are_refused(weights: str):
    with pytest.raises(UserError, match=r"is none of fresh, published, and a \.safetensors, \.pth, \.pt file"):
        method("sre2l", teacher={"network": NETWORK, "weights": weights})


# --- networks that a set is made for ------------------------------------------------------------------------------


def adapting(file: Path | str, **pretraining: object):
    return method(
        "dataset-distillation",
        steps=1,
        epochs=2,
        pool=2,
        start="random-pretrained",
        pretraining={"weights": str(file), "epochs": 0, **pretraining},
        recipe={"network": "convnet-1-w8-nonorm", "initialisation": "xavier"},
    )


def elsewhere(classes: int, path: Path) -> dict[str, torch.Tensor]:
    """The weights of a network for other classes, in a file."""
    network = networks.build("convnet-1-w8-nonorm", in_channels=1, classes=classes, image_size=(8, 8), seed=9)
    torch.save(network.state_dict(), path)
    return network.state_dict()


@pytest.mark.parametrize("classes", [3, 7])
def test_a_network_from_a_file_gets_a_head_of_its_own_for_the_images_at_hand(classes: int, tmp_path: Path):
    """Wang et al. 2018, section 3.3: networks trained elsewhere are adapted with few distilled images."""
    given = elsewhere(classes, tmp_path / "elsewhere.pth")
    config = exchange.with_weights_kept(adapting(tmp_path / "elsewhere.pth"))
    pool = artefacts.get(config.needs(blobs(), size=Size(ipc=1), seed=0)["starting weights"])  # needs no images
    states = [dict(zip(facts["names"], tensors.values(), strict=True)) for tensors, facts in pool]
    for state in states:
        assert np.array_equal(state["features.0.weight"], given["features.0.weight"])
        assert state["classifier.weight"].shape == (3, 128)
    assert not np.array_equal(states[0]["classifier.weight"], states[1]["classifier.weight"])
    ds = runner.distill(config, blobs(), Size(ipc=1), options=CPU)
    result = evaluate(ds, train=blobs(), test=blobs(), nets=2, device="cpu")
    assert result.start == "pretrained"


def test_networks_from_a_file_may_be_trained_on(tmp_path: Path):
    elsewhere(7, tmp_path / "elsewhere.pth")
    config = exchange.with_weights_kept(adapting(tmp_path / "elsewhere.pth", epochs=1))
    spec = config.needs(blobs(), size=Size(ipc=1), seed=0)["starting weights"]
    with pytest.raises(UserError, match="needs the images of 'blobs'"):
        artefacts.get(spec, cache=tmp_path / "empty")
    pool = artefacts.get(spec, resources=Resources.of([blobs()], device="cpu"))
    assert pool.part(0)[1]["loss"] > 0


def test_networks_of_others_and_files_that_were_not_kept_are_refused(tmp_path: Path):
    elsewhere(7, tmp_path / "elsewhere.pth")
    config = adapting(tmp_path / "elsewhere.pth")
    with pytest.raises(UserError, match=r"pretraining\.weights: .*elsewhere\.pth are not in the cache yet"):
        config.needs(blobs(), size=Size(ipc=1), seed=0)
    kept = exchange.with_weights_kept(config)
    other = kept.model_copy(update={"recipe": kept.recipe.model_copy(update={"network": "convnet-1-w4-nonorm"})})
    with pytest.raises(UserError, match=r"pretraining\.weights: not the weights of this network"):
        runner.distill(other, blobs(), Size(ipc=1), options=CPU)
    with pytest.raises(UserError, match="0 epochs pre-train no fresh weights"):
        method("dataset-distillation", pretraining={"epochs": 0})


def test_alexnet_can_be_unrolled_without_its_dropout():
    options = {"in_channels": 3, "classes": 4, "image_size": (64, 64), "seed": 0}
    plain, calm = (networks.build(f"torchvision:alexnet{end}", **options) for end in ("", "-nodropout"))  # type: ignore[arg-type]
    assert plain.state_dict().keys() == calm.state_dict().keys()
    assert all(torch.equal(value, calm.state_dict()[name]) for name, value in plain.state_dict().items())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(calm.train()(images), calm(images))
    assert torch.equal(calm(images), plain.eval()(images))
    require_pure(Recipe(network="torchvision:alexnet-nodropout"), (3, 64, 64), 4, method="mine")
    with pytest.raises(UserError, match="has a Dropout"):
        require_pure(Recipe(network="torchvision:alexnet"), (3, 64, 64), 4, method="mine")


def test_the_papers_experiment_is_a_scenario():
    values = scenario.load("alexnet-to-folder").values
    assert isinstance(values, DistillScenario)
    config = decode_method(values.method)
    assert (config.starts, config.recipe.network) == ("one", "torchvision:alexnet-nodropout")
    assert (config.pretraining.weights, config.pretraining.epochs) == ("published", 0)  # type: ignore[attr-defined]
