"""A memory that is written between two experiences and read again is the same memory, and goes on as the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_streams import Images, SoftAverage, benchmark, linear, strategy_of

from dd_apps.continual import DistilledBuffer, HybridBuffer
from dd_apps.continual.memory import saving
from dd_core import store
from dd_core.errors import UserError

SEEN = benchmark().train_stream[:2]
LAST = benchmark().train_stream[2]


def memory_of(kind=DistilledBuffer, **options) -> DistilledBuffer:
    return kind(30, **({"max_bytes": 700, "labels": "network", "method": "random"} | options))


def filled(kind=DistilledBuffer, **options) -> DistilledBuffer:
    memory = memory_of(kind, **options)
    for experience in SEEN:
        memory.post_adapt(strategy_of(linear()), experience)
    return memory


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DistilledBuffer, {}),
        (DistilledBuffer, {"labels": "hard"}),
        (DistilledBuffer, {"labels": "stored", "method": SoftAverage()}),
        (HybridBuffer, {"features": "network"}),
    ],
)
def test_a_memory_goes_on_from_its_folder_as_if_nothing_had_been(kind, options, tmp_path: Path):
    memory = filled(kind, **options)
    memory.resize(None, 20)
    memory.save(tmp_path)
    again = memory_of(kind, **options)
    again.restore(tmp_path, SEEN)
    assert [ds.digest() for ds in again.sets] == [ds.digest() for ds in memory.sets]
    assert (again.nbytes, again.max_size, again.seconds) == (memory.nbytes, 20, memory.seconds)
    assert again.provenances == memory.provenances
    assert again.joined().digest() == memory.joined().digest()
    assert list(again.buffer_groups) == list(memory.buffer_groups)
    assert all(torch.equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(again.items, memory.items, strict=True))
    for one in (memory, again):
        one.post_adapt(strategy_of(linear(7)), LAST)
    assert [ds.digest() for ds in again.sets] == [ds.digest() for ds in memory.sets]


def test_only_what_is_held_now_stays_in_the_folder(tmp_path: Path):
    memory = filled()
    memory.save(tmp_path)
    before = set(tmp_path.iterdir())
    memory.post_adapt(strategy_of(linear()), LAST)  # every class keeps fewer images then
    memory.save(tmp_path)
    assert len(before) == 1 + 2
    assert len(set(tmp_path.iterdir())) == 1 + 3
    assert before & set(tmp_path.iterdir()) == {tmp_path / "memory.json"}


def test_a_run_that_is_killed_while_it_writes_leaves_the_memory_of_before(tmp_path: Path, monkeypatch):
    memory = filled()
    memory.save(tmp_path)
    digests = [ds.digest() for ds in memory.sets]
    memory.post_adapt(strategy_of(linear()), LAST)

    def killed(path, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saving.store, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.save(tmp_path)
    again = memory_of()
    again.restore(tmp_path, SEEN)
    assert [ds.digest() for ds in again.sets] == digests


@pytest.mark.parametrize(
    ("options", "experiences", "message"),
    [
        (
            {"seed": 1},
            SEEN,
            r"has a memory with seed=0, and this one has seed=1; restore it into",
        ),
        ({"max_bytes": 800}, SEEN, r"has a memory with max_bytes=700, and this one has max_bytes=800"),
        ({"labels": "logits"}, SEEN, r"has a memory with labels='network', and this one has labels='logits'"),
        ({}, SEEN[:1], r"has the memory of 2 experiences, and 1 were given"),
        ({}, [SEEN[1], SEEN[0]], r"experience 0 has other images or classes than the memory has seen"),
        ({}, benchmark(Images(each=5)).train_stream[:2], r"experience 0 has other images or classes"),
    ],
)
def test_a_memory_of_something_else_is_refused(options, experiences, message: str, tmp_path: Path):
    filled().save(tmp_path)
    memory = memory_of(**options)
    with pytest.raises(UserError, match=message):
        memory.restore(tmp_path, experiences)


def test_a_folder_without_a_memory_and_a_memory_in_use_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="has no memory that was saved"):
        memory_of().restore(tmp_path, SEEN)
    memory = filled()
    memory.save(tmp_path)
    with pytest.raises(UserError, match="this memory has images already; restore into a new one"):
        memory.restore(tmp_path, SEEN)


def test_a_set_that_was_exchanged_in_the_folder_is_noticed(tmp_path: Path):
    filled().save(tmp_path)
    one, two = sorted(tmp_path.glob("set-*.safetensors"))
    one.write_bytes(two.read_bytes())
    with pytest.raises(UserError, match="holds another set than the one that was saved there"):
        memory_of().restore(tmp_path, SEEN)


def test_a_memory_of_before_an_option_existed_had_what_was_done_then(tmp_path: Path):
    memory = filled(labels="hard")
    memory.save(tmp_path)
    record = store.read_json(tmp_path / saving.RECORD)
    del record["options"]["shrinking"], record["options"]["bank_epochs"]
    store.write_json(tmp_path / saving.RECORD, record)
    memory_of(labels="hard").restore(tmp_path, SEEN)
    with pytest.raises(UserError, match="has a memory with shrinking='first', and this one has shrinking='distil'"):
        memory_of(labels="hard", shrinking="distil").restore(tmp_path, SEEN)
