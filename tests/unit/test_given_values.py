"""What a program gives: numbers of numpy, lists for tuples, class names, seeds, paths, copies of a set."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from dd_apps.continual import DistilledBuffer
from dd_core import exchange, store
from dd_core.config import Config, decode
from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
from dd_core.errors import UserError
from dd_core.methods import method
from dd_core.recipe import Recipe
from dd_core.runner import distill
from dd_core.testing import blobs
from dd_core.whitening import Whitening

RAW = Pixels(space="raw", mean=(0.0,), std=(1.0,))

# --- configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: Size(ipc=np.int64(3)).ipc, 3),
        (lambda: Size(ipc=np.uint8(3)).ipc, 3),
        (lambda: Size(ipc=torch.tensor(3)).ipc, 3),
        (lambda: Size(counts=[1, np.int32(2)]).counts, (1, 2)),
        (lambda: Size(counts=np.array([1, 2])).counts, (1, 2)),
        (lambda: Recipe(epochs=np.int64(7)).epochs, 7),
        (lambda: Recipe(learning_rate=np.float64(0.1)).learning_rate, 0.1),
        (lambda: Recipe(learning_rate=np.float32(0.1)).learning_rate, float(np.float32(0.1))),
        (lambda: Pixels(space="raw", mean=np.array([0.25]), std=[0.5]).mean, (0.25,)),
        (lambda: method("dm", steps=np.int64(5)).steps, 5),
        (lambda: method("dm", clamp=np.bool_(True)).model_dump()["clamp"], True),
        (lambda: method("dm", recipe={"epochs": np.int32(3), "learning_rate": np.float32(0.5)}).recipe.epochs, 3),
        (lambda: decode(Size, {"counts": np.array([3, 4])}).counts, (3, 4)),
    ],
)
def test_numbers_of_numpy_and_lists_are_pythons_own(make: Callable[[], Any], value: object):
    given = make()
    assert given == value
    assert json.loads(json.dumps(given)) == (list(value) if isinstance(value, tuple) else value)
    assert type(given) is type(value)


@pytest.mark.parametrize(
    ("kind", "values", "line"),
    [
        (Size, {"ipc": 0}, "Size: ipc: input should be greater than or equal to 1 (given: 0)"),
        (Size, {"ipc": np.int64(0)}, "Size: ipc: input should be greater than or equal to 1 (given: 0)"),
        (Size, {"ipc": 3.0}, "Size: ipc: input should be a valid integer (given: 3.0)"),
        (Size, {"ipc": np.float64(3)}, "Size: ipc: input should be a valid integer (given: 3.0)"),
        (Size, {"ipc": True}, "Size: ipc: input should be a valid integer (given: True)"),
        (Size, {"ipcs": 1}, "Size: ipcs: unknown key; did you mean 'ipc'?"),
        (Size, {}, "Size: give either ipc (images per class), images (in all) or counts (of each class)"),
        (Size, {"counts": [[1, 2]]}, "Size: counts.0: input should be a valid integer (given: (1, 2))"),
        (Recipe, {"learning_rate": np.float32("nan")}, "Recipe: learning_rate: input should be a finite number"),
        (Recipe, {"network": "convent"}, "Recipe: network: unknown network 'convent'; did you mean 'convnet'?"),
    ],
)
def test_what_cannot_be_is_one_line(kind: type[Config], values: Mapping[str, Any], line: str):
    with pytest.raises(UserError) as caught:
        kind(**values)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_config_stands_for_its_table():
    recipe = Recipe(epochs=3, network="convnet-1-w4")
    assert method("dm", recipe=recipe).recipe == recipe
    given = (recipe.augmentation, method("dm", recipe={"epochs": 3}).recipe.augmentation)
    assert given == ("none", "auto"), "a table changes the method's own recipe, and a whole one replaces it"
    with pytest.raises(UserError, match=r"recipe\.steps_: unknown key"):
        method("dm", recipe={"steps_": 3})


def test_an_option_that_is_no_value_is_one_line():
    with pytest.raises(UserError, match=r"^method: expected numbers, text, lists and tables, and got ndarray$"):
        method("dm", steps=np.zeros((2, 2)))
    with pytest.raises(UserError, match=r"^method: expected numbers, text, lists and tables, and got Linear$"):
        method("dm", steps=torch.nn.Linear(1, 1))


# --- classes and seeds ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """What becomes of values that are not of the annotated types, in a process whose types nobody checks: a user's."""
    script = Path(__file__).with_name("values_of_a_program.py")
    return json.loads(subprocess.run([sys.executable, script], capture_output=True, check=True).stdout)


NAMED = ["cat", "dog"]
CLASSES: dict[str, object] = {
    "a list": NAMED,
    "an array": NAMED,
    "numpy's texts": NAMED,
    "numbers": ["3", "7"],
    "a range": ["0", "1"],
    "an array of numbers": ["3", "7"],
    "a tensor": ["3", "7"],
    "a number and a text": ["3", "dog"],
    "a text": "mine: classes are a list of names, one for each label from 0 on, not str",
    "a count": "mine: classes are a list of names, one for each label from 0 on, not int",
    "nothing": "mine: classes are a list of names, one for each label from 0 on, not NoneType",
    "a table": "mine: classes are a list of names, one for each label from 0 on, not dict",
    "a set": "mine: classes are a list of names, one for each label from 0 on, not set",
    "one is nothing": "mine: the name of a class is a text or a whole number, not None",
    "truths": "mine: the name of a class is a text or a whole number, not False",
    "fractions": "mine: the name of a class is a text or a whole number, not 0.5",
    "one twice": "mine: two classes are called 'cat'; names of classes differ",
    "a number and its digits": "mine: two classes are called '1'; names of classes differ",
    "too few": "mine: labels run from 0 to 1, but there are 1 classes",
}


@pytest.mark.parametrize("given", CLASSES)
def test_names_of_classes_are_texts_or_refused_before_any_step(outcomes: dict[str, Any], given: str):
    assert outcomes["classes"][given] == CLASSES[given]


def test_no_form_of_class_names_is_left_out(outcomes: dict[str, Any]):
    assert outcomes["classes"].keys() == CLASSES.keys()


def test_an_import_with_two_classes_of_one_name_is_refused(tmp_path: Path):
    torch.save(torch.zeros(1000, 3, 32, 32), tmp_path / "cifar100.pt")
    names = tuple(f"class {index % 99}" for index in range(100))
    with pytest.raises(UserError, match=r"cifar100\.pt: two classes are called 'class 0'; names of classes differ$"):
        exchange.import_challenge(tmp_path / "cifar100.pt", classes=names, recipe={})


@pytest.mark.parametrize("call", ["distill", "train", "evaluate", "split"])
@pytest.mark.parametrize("seed", ["-1", "np.int64(-1)", "1.0", "True", "None", "'1'"])
def test_a_seed_that_is_no_whole_number_from_0_on_is_refused(outcomes: dict[str, Any], call: str, seed: str):
    assert outcomes["seeds"][call][seed] == f"seed is a whole number from 0 on, not {seed}"


def test_a_seed_of_numpys_draws_as_pythons(outcomes: dict[str, Any]):
    ours = {seed: distill(method("random"), blobs(), Size(ipc=1), seed=seed) for seed in (3, 4)}
    assert outcomes["numpy's 3"] == [ours[3].digest(), "int"]
    assert ours[3].digest() != ours[4].digest()


def test_a_buffer_refuses_a_seed_when_it_is_made():
    with pytest.raises(UserError, match=r"^seed is a whole number from 0 on, not -1$"):
        DistilledBuffer(max_size=10, images_per_class=1, seed=-1)


# --- sets ----------------------------------------------------------------------------------------------------


IMAGES, LABELS = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8), np.array([0, 1, 0, 1])


@pytest.fixture
def ds() -> DistilledSet:
    identity = Whitening(np.zeros(64, np.float32), np.eye(64, dtype=np.float32))
    manifest = Manifest(
        classes=("a", "b"),
        pixels=RAW,
        targets="probabilities",
        recipe=Recipe(network="convnet-1-w4"),
    )
    soft = np.full((4, 2), 0.5, np.float32)
    return DistilledSet(IMAGES, LABELS, manifest, soft, identity)


def test_a_set_is_written_by_a_name_and_read_again(ds: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sha256 = store.write_set("new/name.safetensors", ds)
    assert sha256 == store.file_sha256(Path("new/name.safetensors"))
    assert store.read_set("new/name.safetensors").digest() == ds.digest()
    for path in ("name", Path("name"), "name.pt"):
        with pytest.raises(UserError, match=rf"^{path}: a distilled set is a \.safetensors file; try {path}\.safetens"):
            store.write_set(path, ds)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


COPIES: dict[str, Callable[[DistilledSet], DistilledSet]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy within a list": lambda ds: copy.deepcopy([ds])[0],
    **{
        f"pickle {protocol}": lambda ds, protocol=protocol: pickle.loads(pickle.dumps(ds, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_set_is_read_only_too(ds: DistilledSet, name: str):
    digest = ds.digest()
    copied = COPIES[name](ds)
    assert copied.targets is not None
    assert copied.whitening is not None
    arrays = [copied.images, copied.labels, copied.targets, copied.whitening.offset, copied.whitening.matrix]
    for array in arrays:
        assert array is not None
        assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        copied.images[0] = 0
    assert copied.digest() == digest
    again = DistilledSet(copied.images, copied.labels, copied.manifest, copied.targets, copied.whitening)
    assert again.digest() == digest


def test_a_set_out_of_a_file_of_joblibs_is_read_only(ds: DistilledSet, tmp_path: Path):
    joblib.dump(ds, tmp_path / "set")
    assert not joblib.load(tmp_path / "set").images.flags.writeable
