"""Every public name, called in whatever surrounds it, gives bit for bit what the plain call gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ambient_states import ALONE, STATES, TOGETHER, inside, surroundings
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import dd_core
from dd_core import artefacts, exchange
from dd_core.config import Config, canonical, plain
from dd_core.distilled import DistilledSet, Manifest, Pixels, Size, arrays_of
from dd_core.errors import UserError
from dd_core.exchange import MttFiles
from dd_core.images import InputForm, LabelledImages, Source
from dd_core.methods import method
from dd_core.methods.trajectory_matching.experts import ExpertsSpec, Training
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions
from dd_core.system import parallel
from dd_core.system import surroundings as library
from dd_core.testing import blobs
from dd_core.whitening import Whitening

SMALL = {"network": "convnet-2-w16", "epochs": 3}
CPU = RunOptions(device="cpu")
EXPERTS = {"experts": 1, "expert_epochs": 1, "syn_steps": 2, "training": {"batch_size": 12}, "recipe": SMALL}


def told(value: Any) -> Any:
    """A result as values that can be compared bit for bit; of a tensor also whether a network can learn from it."""
    if isinstance(value, torch.Tensor):
        facts = str(value.dtype), str(value.device), value.requires_grad, value.is_inference()
        return *facts, told(value.detach().numpy())
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, nn.Module):
        return {**dict(told(list(value.named_parameters()))), **dict(told(list(value.named_buffers())))}
    if isinstance(value, DistilledSet):
        return told(arrays_of(value)), canonical(plain(value.manifest))
    if isinstance(value, Config):
        return canonical(plain(value))
    if isinstance(value, dict):
        return {key: told(part) for key, part in value.items()}
    return [told(part) for part in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@library.own()
def pixels() -> np.ndarray:
    """(6, 1, 4, 4) float32, numbers among them that are next to nothing: products with them have no normal float."""
    values = np.random.default_rng(0).normal(0.4, 0.3, (6, 1, 4, 4)).astype(np.float32)
    values[:, :, 0] *= 1e-38
    return values


def a_set(*, whitened: bool = False) -> DistilledSet:
    space = "whitened" if whitened else "normalised"
    mean, std = ((0.0,), (1.0,)) if whitened else ((0.3,), (0.7,))
    manifest = Manifest(
        classes=("ant", "bee", "cat"),
        pixels=Pixels(space=space, mean=mean, std=std),
        recipe=Recipe(**SMALL, batch_size=2),
    )
    matrix = np.diag(np.linspace(0.5, 2, 16)).astype(np.float32)
    whitening = Whitening(np.full(16, 0.1, np.float32), matrix) if whitened else None
    return DistilledSet(pixels(), np.arange(3).repeat(2), manifest, whitening=whitening)


# --- what the names do ---------------------------------------------------------------------------------------


def distilled(name: str, **options: Any) -> Callable[[Path], Any]:
    return lambda folder: dd_core.distill(method(name, **options), blobs(), Size(ipc=1), options=CPU)


def trained(folder: Path) -> Any:
    network = dd_core.train(a_set(), device="cpu")
    assert all(parameter.requires_grad for parameter in network.parameters())
    return network


def evaluated(folder: Path) -> Any:
    ds = dd_core.distill(method("average", recipe=SMALL), blobs(), Size(ipc=1), options=CPU)
    return dd_core.evaluate(ds, train=blobs(), test=blobs(per_class=40), nets=2, device="cpu")


def loaded(folder: Path) -> Any:
    for kind in ("ant", "bee"):
        (folder / "images" / kind).mkdir(parents=True, exist_ok=True)
        for index in range(3):
            values = np.random.default_rng(index).integers(0, 256, (6, 6)).astype(np.uint8)
            Image.fromarray(values).save(folder / "images" / kind / f"{index}.png")
    digits = dd_core.load_data("digits", split="test", image_size=5)
    streamed = dd_core.load_data(f"folder:{folder / 'images'}", image_size=4, memory_limit=0)
    kept = dd_core.load_data(f"folder:{folder / 'images'}", image_size=4)
    rows = torch.from_numpy(np.array([1, 0]))
    return [
        [source.take(rows), list(source.batches(3)), source.labels, source.fingerprint(), source.subset(rows).labels]
        for source in (digits, streamed, kept)
    ]


def of_a_truncated_file(folder: Path) -> Any:
    for kind in ("ant", "bee"):
        (folder / "images" / kind).mkdir(parents=True, exist_ok=True)
        for index in range(3):
            Image.new("L", (32, 32), index).save(folder / "images" / kind / f"{index}.jpg")
    whole = (folder / "images/ant/1.jpg").read_bytes()
    (folder / "images/ant/1.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as caught:
        dd_core.load_data(f"folder:{folder / 'images'}")
    return str(caught.value).replace(str(folder), "")


def written(folder: Path) -> Any:
    sums = [dd_core.write_set(folder / f"{index}.safetensors", ds) for index, ds in enumerate((a_set(), WHITENED))]
    return sums, (folder / "0.safetensors").read_bytes()


def read(folder: Path) -> Any:
    dd_core.write_set(folder / "a.safetensors", WHITENED)
    return dd_core.read_set(folder / "a.safetensors")


def used(folder: Path) -> Any:
    sets = [a_set(), a_set().quantised(), a_set(whitened=True), a_set(whitened=True).quantised()]
    real = blobs(side=4).images
    return [[ds, ds.raw(), ds.inputs(), list(ds.as_dataset().tensors), ds.input_form()(real), ds.nbytes] for ds in sets]


def of_images(folder: Path) -> Any:
    labels = torch.from_numpy(np.arange(30) % 3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4)).astype(np.uint8))
    with torch.inference_mode(torch.is_inference_mode_enabled()):
        source = LabelledImages(images, labels, ("ant", "bee", "cat"), "mine")
    rows = torch.from_numpy(np.array([7, 3]))
    rest, held = source.split(0.3, seed=1)
    others = [source, source.subset(rows), rest, held, source.of_classes([2, 0]), source.with_label_noise(0.3, seed=2)]
    parts = [[one.images, one.labels, one.fingerprint(), one.channel_stats()] for one in others]
    return [parts, source.take(rows), list(source.batches(8)), isinstance(source, Source)]


def of_plain_objects(folder: Path) -> Any:
    floats = np.random.default_rng(0).random((6, 1, 5, 5))
    pairs = [(torch.from_numpy(np.arange(25).reshape(1, 5, 5).astype(np.uint8)), index % 2) for index in range(6)]
    given = (floats, [0, 1] * 3), (floats.astype(np.float32), np.arange(6) % 2), Pairs(pairs)
    return [[source.images, source.labels, source.classes] for source in map(dd_core.as_source, given)]


class Pairs(Dataset[Any]):
    """A torch Dataset of what a list holds."""

    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]


def brightened(inputs: torch.Tensor) -> torch.Tensor:
    """A random brightness."""
    return inputs + torch.rand(len(inputs), 1, 1, 1)


def heard(folder: Path) -> Any:
    lines: list[str] = []
    dd_core.Messages(lines.append).message("a line")
    dd_core.Silent().message("another")
    return lines


def pictures() -> list[bytes]:
    return [image.tobytes() for image in (*a_set().to_pil(), *WHITENED.to_pil())]


def refused(folder: Path) -> Any:
    with pytest.raises(dd_core.UserError) as caught:
        dd_core.distill(method("random"), blobs(), Size(ipc=13), options=CPU)
    return str(caught.value)


def experts(folder: Path) -> Any:
    source = blobs()
    spec = ExpertsSpec(
        source=source.fingerprint(),
        network="convnet-2-w16",
        image_shape=source.image_shape,
        classes=3,
        count=1,
        zca=True,
        training=Training(epochs=1, batch_size=12),
    )
    made = artefacts.get(spec, resources=artefacts.Resources.of([source], device="cpu"), cache=folder)
    return made.content, list(made)


def exchanged(folder: Path) -> Any:
    exchange.export_mtt(a_set(), folder / "mtt").write()
    back = exchange.import_mtt(MttFiles.of(folder / "mtt"))
    return exchange.export_mtt(a_set(), folder).files, exchange.export_png(a_set(), folder).files, back


def submitted(folder: Path) -> Any:
    images = np.random.default_rng(0).normal(size=(1000, 3, 32, 32)).astype(np.float32)
    manifest = Manifest(
        classes=tuple(map(str, range(100))),
        pixels=Pixels(space="raw", mean=(0.0,) * 3, std=(1.0,) * 3),
        recipe=Recipe(),
    )
    made = exchange.export_challenge(DistilledSet(images, np.arange(100).repeat(10), manifest), folder)
    made.write()
    return made.files, exchange.import_challenge(folder, classes=manifest.classes)


SOURCE, WHITENED = blobs(), a_set(whitened=True)
# by name of `dd_core`, and what else a program may call
CASES: dict[str, Callable[[Path], Any]] = {
    "DistilledSet": used,
    "LabelledImages": of_images,
    "DDError": lambda folder: str(dd_core.DDError("it failed")),
    "DistilledSet shown": lambda folder: [repr(a_set()), a_set()._repr_html_(), a_set().show().tobytes(), pictures()],
    "Diverged": lambda folder: str(dd_core.Diverged("it diverged")),
    "Evaluation": lambda folder: list(dd_core.Evaluation.model_fields),
    "Forecast": lambda folder: dd_core.Forecast("dm", 3, 1.5).seconds,
    "InputForm": lambda folder: InputForm.of(SOURCE)(SOURCE.images),
    "Interrupted": lambda folder: dd_core.Interrupted("stopped", 2).exit_code,
    "Manifest": lambda folder: a_set().manifest,
    "Messages": heard,
    "OutOfResources": lambda folder: str(dd_core.OutOfResources("no room")),
    "Pixels": lambda folder: a_set().manifest.pixels,
    "Progress": lambda folder: isinstance(dd_core.Progress(), dd_core.Reporter),
    "Reporter": lambda folder: isinstance(dd_core.Silent(), dd_core.Reporter),
    "RunOptions": lambda folder: dd_core.RunOptions().device,
    "Silent": heard,
    "Recipe": lambda folder: Recipe(learning_rate=0.1).for_source("digits"),
    "Size": lambda folder: Size(images=7).per_class(3),
    "Source": of_images,
    "UserError": refused,
    "Workers": lambda folder: dd_core.Workers(count=2).count,
    "as_source": of_plain_objects,
    "distill": distilled("dm", steps=2, batch_real=8, recipe=SMALL),
    "distill dataset-distillation": distilled("dataset-distillation", steps=2, epochs=1, batch_real=8, recipe=SMALL),
    "distill k-means": distilled("k-means"),
    "distill herding": distilled("herding", features="random-network", recipe=SMALL),
    "distill m-datm": distilled("m-datm", steps=2, **EXPERTS, zca=True),
    "evaluate": evaluated,
    "forecast": lambda folder: dd_core.forecast("random", blobs(), 1, options=CPU).making,
    "join": lambda folder: dd_core.join([a_set(), a_set().take([5, 0])]),
    "load_data": loaded,
    "load_data truncated": of_a_truncated_file,
    "method": lambda folder: method("dm", steps=3),
    "preset": lambda folder: dd_core.preset("photos", "dm", image_size=64),
    "read_set": read,
    "train": trained,
    "train augmented": lambda folder: dd_core.train(a_set(), device="cpu", augmentation=brightened),
    "write_set": written,
    "artefacts.get": experts,
    "exchange": exchanged,
    "exchange challenge": submitted,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What a case gives in no surroundings, computed once."""
    known: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in known:
            known[name] = told(_called(name, tmp_path_factory.mktemp("plain")))
        return known[name]

    return of


def _called(name: str, folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_APPS_CACHE", str(folder / "cache"))  # of its own: nothing is found there
        return CASES[name](folder)


def test_every_public_name_has_a_case():
    assert {name.split()[0] for name in CASES} >= set(dd_core.__all__)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("state", [*ALONE, *TOGETHER, "other draws"])
def test_the_same_bits_in_any_surroundings(state: str, name: str, expected: Callable[[str], Any], tmp_path: Path):
    wanted = expected(name)
    with inside(state):
        before = surroundings(), drawn()
        result = _called(name, tmp_path)
        after = surroundings(), drawn()
    assert told(result) == wanted
    assert after == before, "a call has changed what surrounds it"


def drawn() -> tuple[bytes, bytes]:
    """Where the global generators are; beartype, which checks types in tests, draws from Python's own."""
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()


@pytest.mark.parametrize("state", STATES)
def test_every_setting_is_set_aside_and_put_back(state: str):
    plain = surroundings()
    with inside(state):
        there = surroundings()
        assert state == "other draws" or there != plain, "the state changes nothing that is looked at"
        with library.own():
            assert surroundings() == plain
        assert surroundings() == there
        with pytest.raises(ZeroDivisionError), library.own():
            raise ZeroDivisionError
        assert surroundings() == there
    assert surroundings() == plain


@pytest.mark.parametrize("state", ["autocast", "no_grad", "float64", "device block", "numpy raises"])
def test_between_two_results_the_callers_surroundings_are_its_own(state: str):
    with inside(state):
        there = surroundings()
        for _ in parallel.run(_ours, range(2)):
            assert surroundings() == there
        for _ in SOURCE.batches(10):
            assert surroundings() == there


def _ours(_: int) -> None:
    assert torch.ones(1).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()


def test_experts_made_inside_autocast_are_those_that_are_found_outside(tmp_path: Path):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside_made = experts(tmp_path / "a")
    outside = experts(tmp_path / "b")
    assert told(inside_made) == told(outside)


@pytest.mark.parametrize("place", ["images", "labels"])
def test_images_on_another_device_are_refused(place: str):
    tensors = {"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "labels": torch.tensor([0, 1])}
    tensors[place] = tensors[place].to("meta")
    with pytest.raises(UserError, match=f"mine: {place} are on the device 'meta'; move them to the CPU"):
        LabelledImages(**tensors, classes=("ant", "bee"), name="mine")


def test_torch_is_not_imported_for_a_context():
    ask = (
        "from dd_core.system import surroundings\nwith surroundings.own(): import sys\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", ask]).returncode == 0
