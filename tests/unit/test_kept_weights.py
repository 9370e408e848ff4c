"""A teacher whose weights came in somebody's file: the very network, whatever the file, and never another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dd_apps.continual import DistilledBuffer
from dd_core import artefacts, datasets, exchange, runner, store
from dd_core.artefacts import Resources
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.runner import RunOptions
from dd_core.testing import blobs
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
    with pytest.raises(UserError, match=r"the weights sha256:\w{12}\.\.\. are not in this cache; name the file"):
        artefacts.get(spec, resources=Resources.of([blobs()], device="cpu"), cache=tmp_path / "empty")


def test_a_file_that_was_not_kept_is_no_name():
    with pytest.raises(UserError, match=r"exchange\.keep_weights"):
        TeacherSpec.of(blobs(), given("teacher.pth"))


@pytest.mark.parametrize("weights", ["imagenet", "sha256:12", "teacher.bin", ""])
def test_weights_that_are_nowhere_are_refused(weights: str):
    with pytest.raises(UserError, match=r"is none of fresh, published, and a \.safetensors, \.pth, \.pt file"):
        method("sre2l", teacher={"network": NETWORK, "weights": weights})
