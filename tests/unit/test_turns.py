"""Tasks that take steps in turn."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dd_core import streams
from dd_core.errors import Interrupted
from dd_core.system import device as devices
from dd_core.system.turns import in_turns

CPU, GPU = torch.device("cpu"), torch.device("cuda")


Begin = Callable[[], Generator[object, None, str]]


def tasks(*lengths: int, taken: list[str]) -> list[Begin]:
    def task(name: str, steps: int) -> Generator[object, None, str]:
        taken.append(f"({name})")
        try:
            for _ in range(steps):
                taken.append(name)
                yield
        finally:
            taken.append(name.upper())
        return name

    return [partial(task, *each) for each in zip("abcdef", lengths, strict=False)]


@pytest.mark.parametrize(
    ("most", "order", "ended"),
    [
        (1, "(a) a a a A (b) b B (c) c c c C", "abc"),
        (2, "(a) a a (b) b a B A (c) c c c C", "bac"),
        (3, "(a) a a (b) b a B (c) c A c c C", "bac"),
    ],
)
def test_each_takes_a_step_in_turn(most: int, order: str, ended: str):
    taken: list[str] = []
    assert [*in_turns(tasks(3, 1, 3, taken=taken), CPU, most=most)] == [*ended]
    assert " ".join(taken) == order


def test_results_come_in_the_order_in_which_they_are_done():
    assert [*in_turns(tasks(5, 1, 0, taken=[]), CPU, most=3)] == ["b", "c", "a"]
    assert [*in_turns(tasks(taken=[]), CPU, most=3)] == []


def raising(error: BaseException, *, after: int) -> Begin:
    def task() -> Generator[object, None, str]:
        yield from range(after)
        raise error

    return task


def test_where_one_raises_those_that_have_begun_are_finished():
    taken: list[str] = []
    a, b, c = tasks(9, 9, 9, taken=taken)
    done: list[str] = []
    with pytest.raises(ValueError, match="no"):
        done.extend(in_turns([a, raising(ValueError("no"), after=2), b, c], CPU, most=3))
    found = iter(in_turns([a, raising(ValueError("no"), after=2), b, c], CPU, most=3))
    assert [next(found), next(found)] == ["a", "b"]
    with pytest.raises(ValueError, match="no"):
        next(found)
    assert "(c)" not in taken


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("stopped", 15)], ids=str)
def test_an_interrupt_ends_all_at_once(error: BaseException):
    taken: list[str] = []
    a, b = tasks(9, 9, taken=taken)
    with pytest.raises(type(error)):
        list(in_turns([a, b, raising(error, after=1)], CPU, most=3))
    assert taken.count("a") < 9
    assert {"A", "B"} < {*taken}


def test_a_task_that_memory_does_not_suffice_for_begins_again_alone():
    taken: list[str] = []
    a, b, c = tasks(3, 2, 2, taken=taken)
    times: list[int] = []

    def large() -> Generator[object, None, str]:
        times.append(len(taken))
        yield
        if len(times) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "large"

    assert [*in_turns([a, large, b, c], CPU, most=2)] == ["a", "large", "b", "c"]
    assert taken[times[1] - 1] == "A", "it begins again when the other is done"
    rest = [one for one in taken[times[1] :] if one.startswith("(") or one.isupper()]
    assert rest == ["(b)", "B", "(c)", "C"], "and later tasks run alone, too"


def test_alone_a_lack_of_memory_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        list(in_turns([raising(torch.OutOfMemoryError("CUDA out of memory"), after=1)], CPU, most=2))


def test_another_begins_only_where_it_has_room(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(devices, "has_room", lambda device, beside: asked.append(beside) or len(asked) > 1)
    taken: list[str] = []
    assert [*in_turns(tasks(4, 4, 1, taken=taken), CPU, most=2)] == ["a", "c", "b"]
    assert " ".join(taken) == "(a) a a a a A (b) b b (c) c b C b B"
    assert asked == [1, 1], "once for a, beside which is no room, and once for b"


def test_nobody_asks_for_room_where_nothing_waits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "has_room", None)
    assert [*in_turns(tasks(4, taken=[]), CPU, most=2)] == ["a"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_each_task_draws_as_if_it_were_alone(most: int):
    def drawing(seed: int) -> Generator[object, None, list[float]]:
        drawn: list[float] = []
        with streams.seeded(seed, "task"):
            for _ in range(3 + seed):
                drawn.append(torch.rand(()).item())
                yield
        return drawn

    def alone(seed: int) -> list[float]:
        with streams.seeded(seed, "task"):
            return [torch.rand(()).item() for _ in range(3 + seed)]

    before = torch.get_rng_state()
    found = list(in_turns([partial(drawing, seed) for seed in range(3)], CPU, most=most))
    assert found == [alone(seed) for seed in range(3)]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("free", "reserved", "beside", "room"),
    [(200, 100, 1, True), (199, 100, 1, False), (100, 100, 2, True), (99, 100, 2, False)],
)
def test_a_task_has_room_for_twice_what_others_reserved(
    free: int, reserved: int, beside: int, room: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
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

    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", used)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: within[-1])
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(within[-1].name))
    monkeypatch.setattr(devices, "has_room", lambda device, beside: True)
    monkeypatch.setattr(devices, "_QUEUES", {})
    where: list[tuple[str, str]] = []

    def task(name: str) -> Generator[object, None, str]:
        for _ in range(2):
            where.append((name, within[-1].name))
            yield
        where.append((name, within[-1].name))
        return name

    several = [partial(task, name) for name in "abc"]
    found = [(name, within[-1].name) for name in in_turns(several, GPU, most=2)]
    assert found == [("a", "current"), ("b", "current"), ("c", "current")]
    assert {*where} == {("a", "stream 1"), ("b", "stream 0"), ("c", "stream 1")}
    assert [one.waits for one in made] == [["current"], ["current", "current"]]
    assert emptied == ["current"]
    list(in_turns(several, GPU, most=2))
    assert len(made) == 2, "streams are kept, and the memory that they have freed"
    where.clear()
    list(in_turns(several, GPU, most=1))
    assert {place for _, place in where} == {"current"}
    assert len(emptied) == 2
