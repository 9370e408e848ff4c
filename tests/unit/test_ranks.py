"""A teacher that two processes train together: as one process that normalises each half of a mini-batch alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from rank_jobs import FORM, SOURCE, SPEC, TEACHER, Curve, Fatal, OfTwoEpochs, curve
from torch.distributed.elastic.multiprocessing import SignalException

from dd_core.artefacts import Progress, Resources
from dd_core.augment import views
from dd_core.augment.view_config import Views
from dd_core.config import plain
from dd_core.errors import Diverged, OutOfResources, UserError
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import ranks
from dd_core.system.ranks import Rank, launched
from dd_core.training import teachers
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec

CPU = torch.device("cpu")


def by_hand() -> tuple[list[float], dict[str, torch.Tensor]]:
    """One process that normalises each half alone: the mean of the losses of images, one step of SGD."""
    model, streams, labels = SPEC.fresh().train(), Streams(0).child("teacher"), SOURCE.labels
    assert labels is not None
    optimiser = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.9, weight_decay=5e-4)
    losses: list[float] = []
    for epoch, rate in enumerate([0.04, 0.03, 0.01]):  # a cosine
        for group in optimiser.param_groups:
            group["lr"] = rate
        generator = streams.generator("views", epoch)
        drawn = views.draw(Views(crop=None, padding=1, flip=True), count=15, image_size=(8, 8), generator=generator)
        shown = views.crops(FORM(SOURCE.images), drawn.boxes, drawn.flips, black=FORM.black)
        for rows in torch.randperm(15, generator=streams.generator("order", epoch)).split(5):
            optimiser.zero_grad()
            first = F.cross_entropy(model(shown[rows[:3]]), labels[rows[:3]], reduction="sum") / 5
            first.backward()
            running = {name: value.clone() for name, value in model.named_buffers()}
            second = F.cross_entropy(model(shown[rows[3:]]), labels[rows[3:]], reduction="sum") / 5
            second.backward()
            for name, value in model.named_buffers():
                value.copy_(running[name])  # as the first half left it
            optimiser.step()
            losses.append(first.item() + second.item())
    return losses, model.state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def together(folder: Path) -> Curve:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        return launched(curve, SOURCE, count=2, device=CPU)


def test_two_processes_are_one_that_normalises_each_half(together: Curve, folder: Path) -> None:
    (losses, weights, _), (expected, state) = together, by_hand()
    assert losses == pytest.approx(expected, abs=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(torch.from_numpy(weights[name]), value, rtol=1e-4, atol=1e-5)
    assert not [child for child in multiprocessing.active_children() if "Loky" not in child.name]  # joblib's stay
    assert not list(folder.glob("dd-apps-ranks-*"))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux says who listens where")
def test_nobody_listens_to_the_network(together: Curve) -> None:
    assert set(together[2]) == {"0100007F"}  # 127.0.0.1


# --- a process that dies ------------------------------------------------------------------------------------------


def test_a_teacher_goes_on_where_a_process_was_killed(
    together: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(teachers, "SAVE_SECONDS", 0.0)
    progress = Progress(tmp_path / "state")
    parts = {name: getattr(SOURCE, name) for name in ("images", "labels", "classes", "name")}
    with pytest.raises(OutOfResources, match="one of 2 processes that train together ended") as caught:
        SPEC.make_part(0, resources=Resources.of([Fatal(**parts)], device="cpu"), progress=progress)
    assert caught.value.exit_code == 4
    state = progress.load()
    assert state is not None
    assert state["epoch"] == 1
    tensors, facts = SPEC.make_part(0, resources=Resources.of([OfTwoEpochs(**parts)], device="cpu"), progress=progress)
    _, weights, _ = together
    for name, tensor in zip(facts["names"], tensors.values(), strict=True):
        assert np.array_equal(weights[name], tensor), name
    assert facts["loss"] == pytest.approx(np.mean(together[0][-3:]), abs=1e-6)
    assert not [child for child in multiprocessing.active_children() if "Loky" not in child.name]  # joblib's stay
    assert capfd.readouterr() == ("", "")


PARENT = """
import sys, torch
from pathlib import Path
from rank_jobs import endless
from dd_core.system.ranks import launched
if __name__ == "__main__":
    launched(endless, Path(sys.argv[1]), count=2, device=torch.device("cpu"))
"""


def alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout[:1] not in ("", "Z")


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script, folder, paths = tmp_path / "parent.py", tmp_path / "begun", os.pathsep.join(sys.path)
    script.write_text(PARENT)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, script, folder], env=environment, stderr=subprocess.DEVNULL)
    while len(begun := [int(path.name) for path in folder.iterdir()]) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    patience = time.monotonic() + 30
    while orphans := [pid for pid in begun if alive(pid)]:
        if time.monotonic() > patience:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"orphans go on: {orphans}")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("a file changed"), UserError("a file changed")),
        (Diverged("no number"), Diverged("no number")),
        (MemoryError(), OutOfResources("out of memory in one of 3 processes that train together; use fewer")),
        (dist.DistBackendError("NCCL"), OutOfResources(ranks.LOST.format(3))),
        (RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed"), OutOfResources(ranks.LOST.format(3))),
    ],
)
def test_a_failure_is_told_in_one_line(error: Exception, told: Exception) -> None:
    ours = ranks._told(error, 3)  # pyright: ignore[reportPrivateUsage]
    assert (type(ours), str(ours)) == (type(told), str(told))


def test_a_bug_keeps_its_traceback() -> None:
    try:
        raise ValueError("ours")
    except ValueError as error:
        ours = ranks._told(error, 2)  # pyright: ignore[reportPrivateUsage]
    assert isinstance(ours, RuntimeError)
    assert "in test_a_bug_keeps_its_traceback" in str(ours)


@pytest.mark.parametrize("level", [None, "INFO"])
def test_processes_do_not_warn_unless_it_is_asked_for(level: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ranks.CPP_LEVEL, raising=False)
    if level is not None:
        monkeypatch.setenv(ranks.CPP_LEVEL, level)
    with ranks._quiet():  # pyright: ignore[reportPrivateUsage]
        assert os.environ[ranks.CPP_LEVEL] == (level or "ERROR")
    assert os.environ.get(ranks.CPP_LEVEL) == level


def ended_by_sigterm() -> None:
    with ranks._own_signals():  # pyright: ignore[reportPrivateUsage]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the launcher sets a handler
        raise SignalException("", signal.SIGTERM)


def test_a_signal_that_ended_the_processes_reaches_the_caller() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            ended_by_sigterm()
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


# --- who may train together ---------------------------------------------------------------------------------------


def test_one_process_is_what_teachers_of_before_had() -> None:
    assert "processes" not in plain(TeacherConfig())
    assert plain(TEACHER)["processes"] == 2
    alone = SPEC.model_copy(update={"teacher": TEACHER.model_copy(update={"processes": 1})})
    assert alone.digest() != SPEC.digest()


def test_parts_are_in_order_and_differ_by_one_row_at_most() -> None:
    parts = [Rank(index, 3, CPU).part(torch.arange(8)).tolist() for index in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_a_part_without_variance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 processes need 2 images each in a mini-batch, 6 in all, not 5"):
        TeacherConfig(batch_size=5, processes=3)
    spec = TeacherSpec.of(SOURCE, TEACHER.model_copy(update={"batch_size": 6}))
    with pytest.raises(UserError, match="last mini-batch of an epoch has 3 of 15 images, and 2 processes need 2 each"):
        spec.make_part(0, resources=Resources.of([SOURCE], device="cpu"), progress=Progress(tmp_path / "state"))


def test_gpus_are_counted_before_processes_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.next_ones(torch.device("cuda:1"), 2) == [torch.device("cuda:1"), torch.device("cuda:2")]
    with pytest.raises(UserError, match="3 processes need a GPU each, and there are 2 from 'cuda:1' on"):
        devices.next_ones(torch.device("cuda:1"), 3)
    assert devices.next_ones(CPU, 2) == [CPU, CPU]
