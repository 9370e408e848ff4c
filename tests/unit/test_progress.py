"""Progress in programs: who is told what, and when."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from dd_core import Progress, RunOptions, Size, distill, evaluate, method, train
from dd_core.system import progress
from dd_core.system.progress import Lines, reporting
from dd_core.system.reporter import Reporter, Silent
from dd_core.testing import blobs

BLOBS = blobs(per_class=4)
DM = method("dm", steps=4, batch_real=4, recipe={"network": "convnet-1-w4", "epochs": 3})
RANDOM = method("random", recipe={"network": "convnet-1-w4", "epochs": 3})


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unit is told at once."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "DELAY", 0.0)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, hurried: None) -> Iterator[list[SimpleNamespace]]:
    """The bars that somebody would see: how each began, what it was told, and whether it was closed."""
    bars: list[SimpleNamespace] = []

    class Bar(SimpleNamespace):
        def __init__(self, **options: object) -> None:
            super().__init__(**options, done=0, words=[], closed=False)
            bars.append(self)

        def update(self) -> None:
            self.done += 1

        def set_postfix_str(self, words: str, *, refresh: bool) -> None:
            assert not refresh
            self.words.append(words)

        def close(self) -> None:
            self.closed = True

        @staticmethod
        def write(text: str, file: object) -> None:
            assert file is sys.stderr
            bars.append(SimpleNamespace(line=text))

    monkeypatch.setattr(progress, "tqdm", Bar)
    monkeypatch.setattr(progress, "watched", lambda: True)
    return bars  # pyright: ignore[reportReturnType]


def test_a_bar_for_each_stage_below_those_around_it(shown: list[SimpleNamespace]):
    reporter = Progress()
    assert isinstance(reporter, Reporter)
    with reporter.stage("networks", total=3, first=1) as outer:
        with suppress(RuntimeError), reporter.stage("experts", total=2) as inner:
            inner.advance({"loss": 0.25})
            reporter.message("a line")
            raise RuntimeError
        outer.advance()
    networks, experts, line = shown
    assert (networks.desc, networks.total, networks.initial, networks.position) == ("networks", 3, 1, 0)
    assert (experts.desc, experts.total, experts.initial, experts.position) == ("  experts", 2, 0, 1)
    assert (networks.done, networks.words, experts.done, experts.words) == (1, [], 1, ["loss 0.25"])
    assert networks.closed
    assert experts.closed
    assert (networks.leave, networks.delay) == (False, 0.0)
    assert line.line == "a line"


def test_where_nobody_watches_there_are_lines(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 4.0, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    reporter = Progress()
    reporter.message("begun")
    with reporter.stage("dm", total=6) as stage:
        stage.advance({"loss": 2.0})
        stage.advance({"loss": 1.0})
    assert capfd.readouterr().err.splitlines() == ["begun", "dm: 2 of 6, 24 s left  loss 1"]


def test_a_notebook_is_watched(monkeypatch: pytest.MonkeyPatch):
    assert not progress.watched(), "stderr is a file here"
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    assert progress.watched()


@pytest.mark.usefixtures("hurried")
def test_calls_show_their_progress_where_they_are_asked(capfd: pytest.CaptureFixture[str]):
    options = RunOptions(device="cpu", threads=1)
    silent = distill(DM, BLOBS, Size(ipc=1), options=options)
    assert capfd.readouterr().err == ""
    ds = distill(DM, BLOBS, Size(ipc=1), options=options, progress=True)
    assert ds.digest() == silent.digest()
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"dm: {step} of 4" for step in (1, 2, 3, 4)]
    plain = train(ds, device="cpu", seed=2).state_dict()
    assert capfd.readouterr().err == ""
    told = train(ds, device="cpu", seed=2, progress=True).state_dict()
    assert all(torch.equal(told[name], plain[name]) for name in plain)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"epochs: {epoch} of 3" for epoch in (1, 2, 3)]
    small = distill(RANDOM, BLOBS, Size(ipc=1), options=options)
    evaluate(small, train=BLOBS, test=BLOBS, nets=2, device="cpu", progress=True)
    assert "of 4" in capfd.readouterr().err.splitlines()[-1], "two networks, and two of the random twin"


def test_a_reporter_that_is_given_is_the_one_that_hears():
    given = Lines(lambda text: None)
    assert reporting(given, progress=True) is given
    assert type(reporting(None, progress=False)) is Silent
    assert type(reporting(None, progress=True)) is Progress
    heard: list[str] = []

    class Told(Silent):
        def advance(self, metrics=None) -> None:
            heard.append("advance")

    distill(DM, BLOBS, Size(ipc=1), options=RunOptions(device="cpu", threads=1, reporter=Told()), progress=True)
    assert heard == ["advance"] * 4
