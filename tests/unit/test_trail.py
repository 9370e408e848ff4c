"""The parameters of an adjoint's sweep, in memory and in a temporary file."""

from __future__ import annotations

import errno
import io
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dd_core.unroll import gradients, unroll
from dd_core.unroll.trail import Trail


def thetas(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, ...]]:
    """Parameters of three shapes, 22 numbers each time; one of them is no contiguous tensor."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((3, 5), (), (3, 2))
    found = [[torch.randn(shape, generator=draw).to(dtype) for shape in shapes] for _ in range(count)]
    return [(a, b, c.T) for a, b, c in found]


def same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kept", [0, 2, 7])
def test_what_was_pushed_last_comes_back_first(dtype: torch.dtype, kept: int):
    size = 22 * torch.empty((), dtype=dtype).element_size()
    many, stack = thetas(7, dtype), Trail(memory_bytes=kept * size)
    for theta in many[:5]:
        stack.push(theta)
    assert [same(stack.pop(), many[at]) for at in (4, 3)] == [True, True]
    for theta in many[5:]:
        stack.push(theta)
    assert all(same(stack.pop(), many[at]) for at in (6, 5, 2, 1, 0))


def test_the_first_ones_lie_in_memory_and_the_others_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened: list = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: opened.append(temporary(**given)) or opened[-1])
    many, stack = thetas(5), Trail(memory_bytes=2 * 22 * 4)
    for theta in many[:2]:
        stack.push(theta)
    assert not opened
    for theta in many[2:]:
        stack.push(theta)
    assert [file.seek(0, 2) for file in opened] == [3 * 22 * 4]
    assert list(tmp_path.iterdir()) == []  # the file has no name
    taken = [stack.pop() for _ in many]
    assert [any(mine is given for mine, given in zip(taken[at], many[4 - at], strict=True)) for at in range(5)] == [
        *[False] * 3,
        *[True] * 2,
    ]


def test_a_full_disk_keeps_them_in_memory(monkeypatch: pytest.MonkeyPatch):
    class Full:
        """A file on a disk with room for four writes, which is one theta and a third of another."""

        def __init__(self) -> None:
            self.file, self.room = io.BytesIO(), 4

        def write(self, data: memoryview) -> int:
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    many, stack = thetas(4), Trail(memory_bytes=0)
    for theta in many:
        stack.push(theta)
    assert all(same(stack.pop(), theta) for theta in reversed(many))

    def none(**_: object):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    stack = Trail(memory_bytes=0)
    for theta in many:
        stack.push(theta)
    assert all(same(stack.pop(), theta) for theta in reversed(many))


def test_a_file_that_was_cut_short_is_said(monkeypatch: pytest.MonkeyPatch):
    opened: list = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: opened.append(temporary(**given)) or opened[-1])
    stack = Trail(memory_bytes=0)
    for theta in thetas(3):
        stack.push(theta)
    opened[0].truncate(3 * 22 * 4 - 4)
    with pytest.raises(OSError, match="cut short"):
        stack.pop()


@pytest.mark.parametrize("mode", ["adjoint", "tesla"])
def test_gradients_are_the_same_to_the_bit(mode, monkeypatch: pytest.MonkeyPatch):
    images, goal = torch.linspace(-1, 1, 12).reshape(4, 3), torch.tensor([1.0, -1.0, 0.5, 0.0])
    step = unroll_step(goal)
    start = (torch.tensor([0.3, -0.2, 0.1]),)

    def found():
        learned = (images, torch.tensor(0.05))
        return unroll(step, 9, start, learned, lambda theta: (theta[0] - 1).square().sum(), mode=mode)

    ours = found()
    written: list[int] = []

    class Noted(Trail):
        def _write(self, theta):
            written.append(1)
            return super()._write(theta)

    monkeypatch.setattr(gradients, "Trail", partial(Noted, memory_bytes=0))
    theirs = found()
    assert len(written) == 9
    for one, other in ((ours.learned, theirs.learned), (ours.start, theirs.start), (ours.final, theirs.final)):
        assert same(one, other)


def unroll_step(goal: Tensor):
    return gradients.sgd_step(
        lambda t, theta, learned: (learned[0] @ theta[0].tanh() - goal).square().sum() * (1 + t),
        lambda t, learned: learned[1],
    )
