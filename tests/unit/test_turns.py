"""Tasks that take steps in turn."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dd_core.system import device as devices
from dd_core.system.turns import in_turns

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def tasks(*lengths: int, taken: list[str]) -> Generator[Generator[object, None, str]]:
    def task(name: str, steps: int) -> Generator[object, None, str]:
        try:
            for _ in range(steps):
                taken.append(name)
                yield
        finally:
            taken.append(name.upper())
        return name

    for name, length in zip("abcdef", lengths, strict=False):
        taken.append(f"({name})")
        yield task(name, length)


@pytest.mark.parametrize(
    ("most", "order"),
    [
        (1, "(a) a a A (b) b B (c) c c c C"),
        (2, "(a) a (b) a b A B (c) c c c C"),
        (3, "(a) a (b) a b (c) A B c c c C"),
    ],
)
def test_each_takes_a_step_in_turn(most: int, order: str):
    taken: list[str] = []
    assert [*in_turns(tasks(2, 1, 3, taken=taken), CPU, most=most)] == ["a", "b", "c"]
    assert " ".join(taken) == order


def test_results_come_in_the_order_in_which_they_are_done():
    assert [*in_turns(tasks(5, 1, 0, taken=[]), CPU, most=3)] == ["b", "c", "a"]
    assert [*in_turns(tasks(taken=[]), CPU, most=3)] == []


def test_where_one_raises_all_are_closed():
    taken: list[str] = []

    def raising() -> Generator[object, None, str]:
        yield
        yield
        raise ValueError("no")

    several = [*tasks(9, taken=taken), raising(), *tasks(9, taken=taken)]
    with pytest.raises(ValueError, match="no"):
        list(in_turns(several, CPU, most=3))
    assert taken.count("A") == 2


def test_another_begins_only_where_it_has_room(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(devices, "has_room", lambda device, beside: asked.append(beside) or len(asked) > 2)
    taken: list[str] = []
    assert [*in_turns(tasks(4, 1, taken=taken), CPU, most=2)] == ["a", "b"]
    assert " ".join(taken) == "(a) a a a (b) a b A B"
    assert asked == [1, 1, 1]


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "peak", "beside", "room"),
    [
        (200, 0, 0, 100, 1, True),
        (199, 0, 0, 100, 1, False),
        (100, 130, 30, 100, 1, True),  # the allocator's own unused memory counts
        (100, 129, 30, 100, 1, False),
        (100, 0, 0, 100, 2, True),  # two tasks together took 100
    ],
)
def test_a_task_has_room_for_twice_what_others_took(
    free: int, reserved: int, allocated: int, peak: int, beside: int, room: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    assert devices.has_room(GPU, beside=beside) is room
    assert devices.has_room(CPU, beside=beside)


def test_each_task_has_a_stream_of_its_own_that_waits_for_earlier_work(monkeypatch: pytest.MonkeyPatch):
    """PyTorch's streams are replaced by names: here is no GPU."""
    made, within = list[Any](), [SimpleNamespace(name="current")]

    def stream(device: torch.device) -> Any:
        assert device == GPU
        made.append(SimpleNamespace(name=f"stream {len(made)}", waits=[]))
        made[-1].wait_stream = lambda other, own=made[-1]: own.waits.append(other.name)
        return made[-1]

    @contextmanager
    def used(one: Any):
        within.append(one)
        try:
            yield
        finally:
            within.pop()

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", used)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: within[-1])
    monkeypatch.setattr(devices, "has_room", lambda device, beside: True)
    where: list[tuple[str, str]] = []

    def task(name: str) -> Generator[object, None, str]:
        for _ in range(2):
            where.append((name, within[-1].name))
            yield
        where.append((name, within[-1].name))
        return name

    assert [(name, within[-1].name) for name in in_turns(map(task, "ab"), GPU, most=2)] == [
        ("a", "current"),
        ("b", "current"),
    ]
    assert {*where} == {("a", "stream 0"), ("b", "stream 1")}
    assert [one.waits for one in made] == [["current"], ["current"]]
