"""An evaluation that was interrupted goes on: what is kept, what is trained again, and that the result is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dd_core import training, zca
from dd_core.config import Config
from dd_core.distilled import DistilledSet, Size
from dd_core.evaluation import Evaluation, evaluate
from dd_core.evaluation.protocols.wang import WangGridProtocol
from dd_core.evaluation.records import Record, digest_of
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.runner import Silent, distill
from dd_core.system.parallel import Workers
from dd_core.testing import blobs

SOURCE = blobs(per_class=20)


@pytest.fixture(scope="module")
def ds() -> DistilledSet:
    recipe = {"network": "convnet-1-w4", "epochs": 3}
    return distill(method("random", recipe=recipe), SOURCE, Size(ipc=1), seed=4)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The network of every training in this process; the one after `stop_after` is interrupted."""
    networks: list[str] = []
    fit = training.fit

    def counting(data: Any, network: str, *arguments: Any, **options: Any) -> Any:
        networks.append(network)
        return fit(data, network, *arguments, **options)

    monkeypatch.setattr(training, "fit", counting)
    return networks


class Stops(Silent):
    """A reporter that interrupts the call after so many networks, as Ctrl-C does."""

    def __init__(self, after: int = -1) -> None:
        self.after, self.messages = after, list[str]()
        self.stages: list[tuple[str, int, int]] = []
        self.accuracies: list[float] = []

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stops]:
        self.stages.append((name, first, total))
        yield self

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        self.accuracies.append((metrics or {})["accuracy"])
        if len(self.accuracies) == self.after:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.messages.append(text)


def scored(ds: DistilledSet, **options: Any) -> Evaluation:
    return evaluate(ds, **{"train": SOURCE, "test": SOURCE, "nets": 3, "seed": 2, "device": "cpu", **options})


def interrupted(ds: DistilledSet, after: int, keep: Path, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        scored(ds, keep=keep, reporter=Stops(after), **options)


def test_only_the_networks_that_are_missing_are_trained_and_the_result_is_the_same(ds, trained, tmp_path: Path):
    interrupted(ds, 4, tmp_path)
    assert len(trained) == 4
    trained.clear()
    again = Stops()
    result = scored(ds, keep=tmp_path, reporter=again)
    assert len(trained) == 2
    name = "convnet-1-w4 on the set and on real images"
    assert again.stages == [(name, 4, 6)]
    assert again.messages == [f"{name}: 4 of 6 are kept from an earlier call"]
    assert result == scored(ds)
    trained.clear()
    assert scored(ds, keep=tmp_path) == result
    assert trained == []


def test_with_fresh_every_network_is_trained_again(ds, trained, tmp_path: Path):
    result = scored(ds, keep=tmp_path)
    trained.clear()
    assert scored(ds, keep=tmp_path, fresh=True) == result
    assert len(trained) == 6
    for record in tmp_path.iterdir():
        record.unlink()
    assert scored(ds, keep=tmp_path, fresh=True) == result
    trained.clear()
    assert scored(ds, keep=tmp_path) == result, "what is computed with fresh is kept"
    assert trained == []


def other_set(ds: DistilledSet) -> DistilledSet:
    images = ds.images.copy()
    images[0, 0, 0, 0] ^= 1
    return replace(ds, images=images)


def with_recipe(ds: DistilledSet, **changes: Any) -> DistilledSet:
    recipe = ds.manifest.recipe.model_copy(update=changes)
    return replace(ds, manifest=ds.manifest.model_copy(update={"recipe": recipe}))


OTHERS = {
    "pixels": lambda ds: (other_set(ds), {}, 3),  # the twins are the same
    "recipe": lambda ds: (with_recipe(ds, epochs=4), {}, 6),
    "normalisation": lambda ds: (
        replace(
            ds,
            manifest=ds.manifest.model_copy(update={"pixels": ds.manifest.pixels.model_copy(update={"std": (0.3,)})}),
        ),
        {},
        6,
    ),
    "seed": lambda ds: (ds, {"seed": 3}, 6),
    "network": lambda ds: (ds, {"network": "convnet-1-w8"}, 6),
    "test images": lambda ds: (ds, {"test": SOURCE.subset(torch.arange(30))}, 6),
    "training images": lambda ds: (ds, {"train": blobs(per_class=21)}, 3),
    "threads": lambda ds: (ds, {"workers": Workers(threads=2)}, 6),
    "start": lambda ds: (ds, {"start": "xavier"}, 6),
    "more networks": lambda ds: (ds, {"nets": 4}, 2),
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_is_asked_for_differently_is_trained(change: str, ds, trained, tmp_path: Path):
    scored(ds, keep=tmp_path)
    trained.clear()
    other, options, count = OTHERS[change](ds)
    result = scored(other, keep=tmp_path, **options)
    assert len(trained) == count
    assert result == scored(other, **options)


@pytest.mark.parametrize("damage", ["cut", "a figure", "no JSON object", "another's"])
def test_a_damaged_record_is_made_again(damage: str, ds, trained, tmp_path: Path):
    result = scored(ds, keep=tmp_path)
    victim, other, *_ = sorted(tmp_path.iterdir())
    content = json.loads(victim.read_text())
    victim.write_text(
        {
            "cut": victim.read_text()[:-20],
            "a figure": json.dumps({**content, "score": {**content["score"], "accuracy": 0.987}}),
            "no JSON object": "[]",
            "another's": other.read_text(),
        }[damage]
    )
    trained.clear()
    assert scored(ds, keep=tmp_path) == result
    assert len(trained) == 1
    assert json.loads(victim.read_text()) == content


def test_where_the_disk_refuses_the_scores_are_told_all_the_same(ds, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert scored(ds, keep=tmp_path / "file") == scored(ds)


def test_workers_keep_what_they_finish(ds, trained, tmp_path: Path):
    interrupted(ds, 1, tmp_path, workers=Workers(count=2))
    kept = len([*tmp_path.glob("*.json")])  # a worker that is killed while it writes leaves a hidden file
    assert kept >= 1
    result = scored(ds, keep=tmp_path)
    assert len(trained) <= 6 - kept  # one that was under way may have been finished since
    assert result == scored(ds)


def test_a_choice_goes_on_setting_by_setting(ds, monkeypatch: pytest.MonkeyPatch, trained, tmp_path: Path):
    monkeypatch.setattr(WangGridProtocol, "grid", {"learning_rate": (0.1, 0.01), "epochs": (1, 2)})
    interrupted(ds, 3, tmp_path, protocol="wang-grid")
    assert len(trained) == 3 * 4
    trained.clear()
    again = Stops()
    result = scored(ds, keep=tmp_path, reporter=again, protocol="wang-grid")
    assert len(trained) == 3 * 4 + 6
    assert [stage[1:] for stage in again.stages] == [(3, 6), (0, 6)]
    assert again.stages[0][0] == "convnet-1-w4 under 4 settings"
    assert result == scored(ds, protocol="wang-grid")


class Number(Config):
    value: float


def test_a_record_is_one_file_of_its_facts(tmp_path: Path):
    record = Record(tmp_path / "scores", {"seed": 1})
    assert record.read(Number) is None
    record.write(Number(value=0.1 + 0.2))
    assert record.read(Number) == Number(value=0.1 + 0.2)
    assert Record(tmp_path / "scores", {"seed": 2}).read(Number) is None
    assert [path.name for path in (tmp_path / "scores").iterdir()] == [record.path.name]


def test_what_a_killed_writer_of_a_record_left_goes_with_the_next_one(tmp_path: Path):
    record, other = (Record(tmp_path, {"seed": seed}) for seed in (1, 2))
    mine, others = (tmp_path / f".{each.path.name}.123.tmp" for each in (record, other))
    for leftover in (mine, others):
        leftover.write_text("half")
    record.write(Config())
    assert (record.path.exists(), mine.exists(), others.exists()) == (True, False, True)


def test_a_digest_is_of_what_a_value_holds():
    images = torch.arange(6.0).view(2, 3)
    assert digest_of(images) == digest_of(images.clone().numpy())
    assert len({digest_of(value) for value in (images, images.view(3, 2), images.double(), images + 1, None)}) == 5
    form, other = (InputForm.of(SOURCE, zca.fit(SOURCE, epsilon=epsilon)) for epsilon in (0.1, 0.2))
    before = digest_of(form)
    form(SOURCE.images[:1])
    assert digest_of(form) == before != digest_of(other)
