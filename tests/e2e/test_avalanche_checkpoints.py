"""Avalanche's own checkpoints hold a strategy with a `DistilledBuffer`, under the locked versions of dill and torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(HERE)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    import resumable_program

    yield resumable_program
    torch.set_num_threads(before)


def test_a_strategy_with_a_memory_goes_on_in_another_process(program, tmp_path: Path):
    whole = program.run(None)
    stopped = program.run(tmp_path / "stopped.pt", stop_after=2)
    assert stopped["accuracies"] == whole["accuracies"][:2]
    assert stopped["sets"] == whole["sets"][:2]
    command = [sys.executable, str(HERE / "resumable_program.py"), str(tmp_path / "stopped.pt")]
    resumed = subprocess.run(command, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    found = json.loads(resumed.stdout.splitlines()[-1])
    assert found["first"] == 2
    assert found["accuracies"] == whole["accuracies"][2:]
    assert whole["accuracies"][2] > 0.4  # a network that forgets knows two of six classes
    for name in ("weights", "sets", "images"):
        assert found[name] == whole[name], name
    assert found["optimiser"], "the optimiser's class was written by value"


def test_torchs_optimisers_are_where_pickles_look_for_them():
    """What dill asks; without it `save_checkpoint` writes typing_extensions by value, and fails."""
    import dill

    from dd_apps.continual import adapter

    del adapter
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        assert len(dill.dumps(kind)) < 100
