"""The parameters of an adjoint's sweep, in memory and in a temporary file."""

from __future__ import annotations

import errno
import resource
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dd_core.errors import OutOfResources
from dd_core.unroll import gradients, trail, unroll
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
    monkeypatch.setattr(trail, "ON_DISK", str(tmp_path))
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
    for _ in range(2):  # what is taken gives its place to what comes
        assert same(stack.pop(), many[4])
        stack.push(many[4])
    assert opened[0].seek(0, 2) == 3 * 22 * 4
    taken = [stack.pop() for _ in many]
    assert [any(mine is given for mine, given in zip(taken[at], many[4 - at], strict=True)) for at in range(5)] == [
        *[False] * 3,
        *[True] * 2,
    ]


@pytest.mark.parametrize("room", [0, 1, 87, 88, 89, 170, 176, 200, 263, 264, 400])
def test_a_full_disk_keeps_the_others_in_memory(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files of at most `room` bytes; a theta has 88."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    many, stack = thetas(5), Trail(memory_bytes=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        for theta in many[:4]:
            stack.push(theta)
        assert same(stack.pop(), many[3])
        stack.push(many[4])
        taken = [stack.pop() for _ in range(4)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(map(same, taken, (many[4], many[2], many[1], many[0])))


def test_without_a_folder_for_temporary_files_all_lie_in_memory(monkeypatch: pytest.MonkeyPatch):
    def none(**_: object):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    many, stack = thetas(4), Trail(memory_bytes=0)
    for theta in many:
        stack.push(theta)
    assert all(same(stack.pop(), theta) for theta in reversed(many))


def test_the_file_is_where_the_environment_says_or_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    where: list[object] = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: where.append(given["dir"]) or temporary(**given))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    for disk in (str(tmp_path), "/nowhere"):
        monkeypatch.setattr(trail, "ON_DISK", disk)
        Trail(memory_bytes=0).push(thetas(1)[0])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(trail, "ON_DISK", str(tmp_path))
    Trail(memory_bytes=0).push(thetas(1)[0])
    assert where == [str(tmp_path), None, None]


@pytest.mark.parametrize("size", [0, 100, 3 * 88 - 4])
def test_a_file_that_cannot_be_read_is_told(size: int, monkeypatch: pytest.MonkeyPatch):
    opened: list = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: opened.append(temporary(**given)) or opened[-1])
    stack = Trail(memory_bytes=0)
    for theta in thetas(3):
        stack.push(theta)
    opened[0].truncate(size)
    with pytest.raises(OutOfResources, match="inner steps cannot be read: it was cut short"):
        stack.pop()
    opened[0].close()
    with pytest.raises((OutOfResources, ValueError)):
        stack.pop()


def test_tensors_of_each_theta_come_back_as_they_were():
    """The types and shapes of one need not be those of the next, and a conjugate is not computed before it is read."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(3, 2, generator=draw, dtype=torch.complex64)
    many = [(torch.arange(4.0),), (torch.arange(5.0).double(), torch.ones(2) > 0), (), (z.conj(), z.imag)]
    stack = Trail(memory_bytes=0)
    for theta in many:
        stack.push(theta)
    for theta in reversed(many):
        back = stack.pop()
        assert [one.dtype for one in back] == [one.dtype for one in theta]
        assert same(back, theta)


def test_rates_that_promote_the_parameters_give_the_exact_gradient(monkeypatch: pytest.MonkeyPatch):
    images, goal = torch.linspace(-1, 1, 12).reshape(4, 3), torch.tensor([1.0, -1.0, 0.5, 0.0])
    start, learned = (torch.tensor([0.3, -0.2, 0.1]),), (images, torch.full((3,), 0.05, dtype=torch.float64))
    monkeypatch.setattr(gradients, "Trail", partial(Trail, memory_bytes=0))

    def found(mode):
        return unroll(unroll_step(goal), 9, start, learned, lambda theta: (theta[0] - 1).square().sum(), mode=mode)

    ours, full = found("adjoint"), found("full")
    for one, other in zip((*ours.learned, *ours.start), (*full.learned, *full.start), strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("fails", [False, True])
def test_the_file_is_closed_whatever_happens(fails: bool, monkeypatch: pytest.MonkeyPatch):
    opened: list = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: opened.append(temporary(**given)) or opened[-1])
    monkeypatch.setattr(gradients, "Trail", partial(Trail, memory_bytes=0))
    learned, start = (torch.ones(4, 3), torch.tensor(0.05)), (torch.ones(3),)

    def outer(theta):
        return 1 / 0 if fails else theta[0].sum()

    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        unroll(unroll_step(torch.ones(4)), 3, start, learned, outer, mode="adjoint")
    assert [file.closed for file in opened] == [True]


def unroll_step(goal: Tensor):
    return gradients.sgd_step(
        lambda t, theta, learned: ((learned[0] * theta[0].tanh()).sum(1) - goal).square().sum() * (1 + t),
        lambda t, learned: learned[1],
    )
