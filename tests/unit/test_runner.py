"""The loop: resuming, refusing, reporting. Kills and full disks are under reliability/."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from dd_core import store
from dd_core.distilled import Size
from dd_core.errors import OutOfResources, UserError
from dd_core.methods import method
from dd_core.runner import RunOptions, Silent, distill
from dd_core.testing import blobs

DM = method("dm", steps=6, batch_real=8, recipe={"network": "convnet-2-w16"})


class Notes:
    """A reporter that remembers, and can stop a run by an error."""

    def __init__(self, stop_at: int = -1) -> None:
        self.steps: list[int] = []
        self.messages: list[str] = []
        self.ranges: list[tuple[int, int]] = []
        self.finished = 0
        self.stop_at = stop_at

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Notes]:
        self.ranges.append((first, total))
        self.done = first
        try:
            yield self
        finally:
            self.finished += 1

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        assert metrics is not None
        assert metrics["loss"] > 0
        self.steps.append(self.done)
        self.done += 1
        if self.steps[-1] == self.stop_at:
            raise RuntimeError("stopped by the test")

    def message(self, text: str) -> None:
        self.messages.append(text)


def _run(out: Path, *, config=DM, seed: int = 0, **options):
    notes = options.setdefault("reporter", Notes())
    ds = distill(
        config, blobs(), Size(ipc=1), seed=seed, out=out, options=RunOptions(checkpoint_seconds=0.0, **options)
    )
    return ds, notes


def test_a_run_leaves_a_set_its_metrics_and_its_cost(tmp_path):
    out = tmp_path / "new" / "set.safetensors"
    _, notes = _run(out)
    assert notes.steps == list(range(6))
    assert (notes.ranges, notes.finished) == ([(0, 6)], 1)
    assert [record["step"] for record in store.read_lines(tmp_path / "new/set.run/metrics.jsonl")] == list(range(6))
    cost = json.loads((tmp_path / "new/set.run/run.json").read_text())
    assert cost["sha256"] == store.file_sha256(out)
    assert cost["seconds"] > 0
    assert cost["peak_memory_bytes"] > 1e6
    assert not list((tmp_path / "new/set.run").glob("checkpoint-*"))


def test_a_stopped_run_goes_on_and_makes_the_same_bytes(tmp_path):
    _run(tmp_path / "whole.safetensors")
    out = tmp_path / "set.safetensors"
    for stop in (1, 4):
        with pytest.raises(RuntimeError):
            _run(out, reporter=Notes(stop_at=stop))
        assert len(list((tmp_path / "set.run").glob("checkpoint-*"))) <= 2
    _, notes = _run(out)
    assert notes.steps == [4, 5]
    assert notes.messages == ["resumed at step 4 of 6"]
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert [record["step"] for record in store.read_lines(tmp_path / "set.run/metrics.jsonl")] == list(range(6))


def test_the_seconds_before_a_stop_count(tmp_path):
    out = tmp_path / "set.safetensors"
    with pytest.raises(RuntimeError):
        _run(out, reporter=Notes(stop_at=3))
    for path in (tmp_path / "set.run").glob("checkpoint-*"):
        state, facts = store.read_state(path)
        assert 0 < facts["seconds"] < 1000
        store.write_state(path, state, {**facts, "seconds": 1000.0})
    _run(out)
    assert json.loads((tmp_path / "set.run/run.json").read_text())["seconds"] > 1000


def test_a_finished_run_is_handed_over_again(tmp_path):
    out = tmp_path / "set.safetensors"
    first, _ = _run(out)
    before = out.stat().st_mtime_ns
    again, notes = _run(out)
    assert (notes.steps, notes.messages) == ([], [f"{out} is complete already; nothing to do"])
    assert again.manifest == first.manifest
    assert out.stat().st_mtime_ns == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_run_in_its_place_is_refused_key_by_key(tmp_path, finished: bool):
    out = tmp_path / "set.safetensors"
    if finished:
        _run(out)
    else:
        with pytest.raises(RuntimeError):
            _run(out, reporter=Notes(stop_at=3))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    changed = method("dm", steps=7, batch_real=8, recipe={"network": "convnet-2-w16", "epochs": 5})
    with pytest.raises(UserError) as caught:
        _run(out, config=changed, seed=1)
    assert "(config.recipe.epochs: 1000 -> 5; config.steps: 6 -> 7; seed: 0 -> 1)" in str(caught.value)
    assert "use another out, or fresh=True to start over" in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    _, notes = _run(out, config=changed, seed=1, fresh=True)
    assert notes.steps == list(range(7))


def test_a_fresh_run_that_cannot_begin_discards_nothing(tmp_path):
    out = tmp_path / "set.safetensors"
    _run(out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="13 are asked for"):
        distill(DM, blobs(), Size(ipc=13), out=out, options=RunOptions(fresh=True))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_changed_source_is_refused(tmp_path):
    out = tmp_path / "set.safetensors"
    _run(out)
    with pytest.raises(UserError, match="fingerprint: "):
        distill(DM, blobs(per_class=13), Size(ipc=1), out=out)


@pytest.mark.skipif((os.cpu_count() or 2) < 2, reason="two threads need two cores")
def test_another_thread_count_is_said_and_recorded(tmp_path):
    out = tmp_path / "set.safetensors"
    with pytest.raises(RuntimeError):
        _run(out, reporter=Notes(stop_at=3), threads=1)
    ds, notes = _run(out, threads=2)
    assert "another torch, device or thread count" in notes.messages[0]
    assert [one.threads for one in ds.manifest.provenance.environments] == [1, 2]


def test_a_time_limit_ends_a_run_that_can_be_resumed(tmp_path):
    out = tmp_path / "set.safetensors"
    with pytest.raises(OutOfResources) as caught:
        _run(out, time_limit=0.0, resume_command="dd-apps distill again")
    assert str(caught.value) == (
        "the time limit of 0 s is reached; stopped after step 1 of 6; to go on: dd-apps distill again"
    )
    assert caught.value.exit_code == 4
    _, notes = _run(out)
    assert notes.steps == [1, 2, 3, 4, 5]


def test_a_time_limit_holds_while_starting_weights_are_made_and_those_that_are_there_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    out, given = tmp_path / "set.safetensors", {"start": "random-pretrained", "pool": 3, "pretraining": {"epochs": 1}}
    recipe = {"network": "convnet-1-w4", "initialisation": "xavier"}
    config = method("dataset-distillation", steps=1, epochs=1, recipe=recipe, **given)
    listener = Listener()
    with pytest.raises(OutOfResources) as caught:
        _run(out, config=config, time_limit=0.0, resume_command="dd-apps distill again", reporter=listener)
    assert str(caught.value) == (
        "the time limit of 0 s is reached; stopped after 1 of 3 networks to start from; to go on: dd-apps distill again"
    )
    assert listener.messages == ["making 3 networks to start from (0 of 3 are in the cache); kept for later runs"]
    listener = Listener()
    _run(out, config=config, reporter=listener)
    assert listener.stages == [("networks to start from", 1, 3), ("dataset-distillation", 0, 1)]
    assert listener.messages == ["making 2 more networks to start from (1 of 3 are in the cache); kept for later runs"]


class Listener(Silent):
    """A reporter that keeps the stages and the messages that it hears."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.stages: list[tuple[str, int, int]] = []

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Listener]:
        self.stages.append((name, first, total))
        yield self

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize(
    ("name", "message"), [("set", "a distilled set is a .safetensors file"), ("x.png", "try x.png")]
)
def test_an_output_of_another_kind_is_refused(tmp_path, name: str, message: str):
    with pytest.raises(UserError, match=message):
        _run(tmp_path / name)


def test_a_set_that_no_run_made_is_not_overwritten(tmp_path):
    out = tmp_path / "set.safetensors"
    ds, _ = _run(tmp_path / "other.safetensors")
    from dataclasses import replace

    store.write_set(out, replace(ds, manifest=ds.manifest.model_copy(update={"provenance": None})))
    with pytest.raises(UserError, match="holds a set without provenance"):
        _run(out)
