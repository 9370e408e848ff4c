"""Artefacts: found or made, in parts, and never handed over half made."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from filelock import FileLock

from dd_core import artefacts, store
from dd_core.artefacts import ArtefactSpec
from dd_core.errors import UserError
from dd_core.recipe import Recipe, StartingPool
from dd_core.system.parallel import Workers
from dd_core.training.starts import spec_of


class Squares(ArtefactSpec):
    """Part i is i squared times a resource; counts how often each part is made in a file."""

    kind: ClassVar[str] = "squares"
    count: int
    fail_at: int = -1

    def parts(self) -> int:
        return self.count

    def digest(self) -> str:
        return artefacts.digest({"squares": self.count})

    def make_part(self, index, *, resources, progress):
        store.append_line(resources, {"made": index})
        if index == self.fail_at:
            raise UserError("no more")
        return {"value": np.array([index**2])}, {"index": index}


POOL = spec_of(Recipe(network="convnet-2-w16"), (1, 8, 8), 3, StartingPool(distribution="default", count=3, seed=4))


def test_it_is_made_once(tmp_path):
    log = tmp_path / "log"
    made = artefacts.get(Squares(count=3), resources=log, cache=tmp_path)
    found = artefacts.get(Squares(count=3), resources=log, cache=tmp_path)
    assert [record["made"] for record in store.read_lines(log)] == [0, 1, 2]
    assert [tensors["value"].item() for tensors, _ in found] == [0, 1, 4]
    assert made.content == found.content


def test_an_interrupted_making_keeps_its_parts_and_hands_over_nothing(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(UserError, match="no more"):
        artefacts.get(Squares(count=4, fail_at=2), resources=log, cache=tmp_path)
    (row,) = artefacts.listing(tmp_path)
    assert not row["complete"]
    artefacts.get(Squares(count=4), resources=log, cache=tmp_path)
    assert [record["made"] for record in store.read_lines(log)] == [0, 1, 2, 2, 3]
    assert artefacts.listing(tmp_path)[0]["complete"]


def test_the_content_does_not_depend_on_who_made_it(tmp_path):
    alone = artefacts.get(POOL, cache=tmp_path / "a")
    together = artefacts.get(POOL, cache=tmp_path / "b", workers=Workers(count=2))
    assert alone.content == together.content


def test_another_spec_has_another_name():
    assert POOL.digest() != POOL.model_copy(update={"classes": 5}).digest()


def test_prune_removes_the_half_made_and_all_on_request(tmp_path):
    with pytest.raises(UserError):
        artefacts.get(Squares(count=4, fail_at=2), resources=tmp_path / "log", cache=tmp_path)
    artefacts.get(POOL, cache=tmp_path)
    assert [row["kind"] for row in artefacts.prune(cache=tmp_path)] == ["squares"]
    assert [row["kind"] for row in artefacts.listing(tmp_path)] == ["starting-weights"]
    assert len(artefacts.prune(everything=True, cache=tmp_path)) == 1
    assert artefacts.listing(tmp_path) == []


def test_prune_leaves_alone_what_is_being_made_and_does_not_stop_at_stray_files(tmp_path):
    made = artefacts.get(POOL, cache=tmp_path)
    (tmp_path / "artefacts" / "starting-weights" / "stray").write_text("x")
    (made.folder / "complete.json").write_text("{")
    assert [row["complete"] for row in artefacts.listing(tmp_path)] == [False]
    with FileLock(made.folder / "lock"):
        assert artefacts.prune(cache=tmp_path) == []
    assert artefacts.get(POOL, cache=tmp_path).content == made.content


def test_a_damaged_part_is_said_when_it_is_read(tmp_path):
    made = artefacts.get(POOL, cache=tmp_path)
    path = made.folder / "part-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="the file is damaged"):
        made.part(1)
