"""Counter-based random numbers."""

from __future__ import annotations

import pytest
import torch

from dd_core.streams import Streams, counter, generator, seeded


def test_the_counter_is_the_same_everywhere_and_forever():
    assert counter(0, "real", 0) == 5371399433941810835
    assert counter(7, "network", 12) == 219108188049094862


def test_seed_stream_and_step_each_change_the_draw():
    draws = {
        tuple(torch.rand(2, generator=generator(seed, stream, step)).tolist())
        for seed in (0, 1)
        for stream in ("a", "b")
        for step in (0, 1)
    }
    assert len(draws) == 8


def test_names_cannot_run_into_each_other():
    assert counter(1, "1", 0) != counter(11, "", 0)
    assert Streams(1).child("a").seed != Streams(1).child("b").seed


@pytest.mark.parametrize("accelerator", [False, True])
def test_seeded_draws_alike_and_puts_the_global_state_back(accelerator: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with seeded(0, "init"):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=generator(0, "init")))
    assert torch.equal(torch.rand(1), expected)


def test_streams_are_those_of_their_seed_at_every_step():
    streams = Streams(3)
    for step in (0, 4):
        assert streams.child("part", step).seed == counter(3, "part", step)
        alone = torch.rand(2, generator=generator(3, "draw", step))
        assert torch.equal(torch.rand(2, generator=streams.generator("draw", step)), alone)
        with streams.seeded("init", step):
            drawn = torch.rand(2)
        assert torch.equal(drawn, torch.rand(2, generator=generator(3, "init", step)))
