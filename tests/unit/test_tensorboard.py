"""Scalars for TensorBoard: the numbers of the log, at the steps that they are of."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dd_apps.cli import main
from dd_core import store
from dd_core.methods.dm.distiller import DMDistiller
from dd_core.system.reporter import Reporter
from dd_core.system.tensorboard import TensorBoard

WORDS = ["--data", "digits", "--ipc", "1", "--set", "steps=5", "--set", "batch_real=4"]
WORDS += ["--set", "recipe.network=convnet-1-w4", "--checkpoint-seconds", "0", "--device", "cpu"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder))
    board.Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


class Listening:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def stage(self, name: str, *, total: int, first: int = 0):
        self.heard.append((name, total, first))
        return nullcontext(self)

    def advance(self, metrics=None) -> None:
        self.heard.append(metrics)

    def message(self, text: str) -> None:
        self.heard.append(text)


def test_metrics_are_written_by_stage_and_step_and_handed_on(tmp_path: Path):
    told = Listening()
    board = TensorBoard(tmp_path / "logs", told)
    assert isinstance(board, Reporter)
    assert not (tmp_path / "logs").exists()
    board.message("a line")
    with board.stage("networks", total=2) as networks:
        for accuracy in (0.25, 0.5):
            with board.stage("epochs", total=3, first=1) as epochs:
                epochs.advance()
                epochs.advance({"loss": 4 * accuracy})
            networks.advance({"accuracy": accuracy})
    assert scalars(tmp_path / "logs") == {
        "networks 1/epochs/loss": [(2, 1.0)],
        "networks 2/epochs/loss": [(2, 2.0)],
        "networks/accuracy": [(0, 0.25), (1, 0.5)],
    }
    epochs = [("epochs", 3, 1), None]
    assert told.heard == [
        "a line",
        ("networks", 2, 0),
        *epochs,
        {"loss": 1.0},
        {"accuracy": 0.25},
        *epochs,
        {"loss": 2.0},
        {"accuracy": 0.5},
    ]


def test_the_command_line_writes_the_figures_of_its_log_and_goes_on_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    words = ["distill", "dm", *WORDS, "--out", "a.safetensors", "--log", "tensorboard"]
    step = DMDistiller.step

    def interrupted(self: DMDistiller, index: int) -> dict[str, float]:
        if index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(DMDistiller, "step", interrupted)
        assert main(words) == 130
    assert main(words) == 0
    log = store.read_lines(tmp_path / "a.run" / "metrics.jsonl")
    found = scalars(tmp_path / "a.run" / "tensorboard")
    assert found == {"dm/loss": [(line["step"], pytest.approx(line["loss"])) for line in log]}
    assert len(log) == 5
    capfd.readouterr()


def test_without_the_package_a_line_says_so_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "dd_core.system.tensorboard")
    assert main(["distill", "dm", *WORDS, "--out", "a.safetensors", "--log", "tensorboard"]) == 2
    assert "error: writing for TensorBoard needs its package: pip install tensorboard" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
