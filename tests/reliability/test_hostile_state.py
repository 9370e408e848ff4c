"""Checkpoints and artefacts whose checksums are right and whose content is nonsense."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import compact, forge, pack, set_with, signed

from dd_core import artefacts, store
from dd_core.config import canonical
from dd_core.distilled import Size
from dd_core.errors import Interrupted, UserError
from dd_core.methods import method
from dd_core.recipe import Recipe, StartingPool
from dd_core.runner import RunOptions, Silent, distill
from dd_core.testing import blobs
from dd_core.training.starts import spec_of

STATES: list[object] = [
    None,
    1,
    "state",
    [],
    {},
    {"list": []},
    {"dict": None},
    {"dict": 5},
    {"dict": [[1]]},
    {"dict": [[1, 2, 3]]},
    {"dict": [[{"dict": []}, 1]]},  # an unhashable key
    {"dict": [], "list": []},
    {"pickle": "cos\nsystem\n(S'true'\ntR."},
    {"float": "one"},
    {"float": 1},
    {"float": "0x1p+99999"},
    {"array": 7},
    {"array": -1},
    {"array": "0' OR 1"},
    {"tensor": None},
    {"tensor": [0]},
    {"dict": [["x", {"tensor": 9}]]},
    {"dict": [["x", {"tensor": 0}], ["y", {"tensor": 0}]]},  # one array in two places
    {"tuple": 3},
    {"set": [1]},
]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_a_state_that_makes_no_sense_is_refused(tmp_path: Path, state: object):
    path = tmp_path / "checkpoint.safetensors"
    store.write_container(path, store.CHECKPOINT, {"t0": np.ones(2)}, {"state": state, "body": {}})
    with pytest.raises(UserError, match=r"not a readable dd-apps.checkpoint file") as caught:
        store.read_state(path)
    assert str(caught.value).isprintable()


def test_a_state_nested_too_deeply_is_refused(tmp_path: Path):
    path, text = tmp_path / "checkpoint.safetensors", '{"dict":[[1,' * 400 + "1" + "]]}" * 400
    whole = '{"body":{},"kind":"dd-apps.checkpoint","state":' + text + ',"tensors":{},"version":1}'
    manifest = '{"body":' + whole + ',"sha256":"' + hashlib.sha256(whole.encode()).hexdigest() + '"}'
    path.write_bytes(pack(compact({"__metadata__": {"manifest": manifest}})))
    with pytest.raises(UserError, match=r"not a readable dd-apps.checkpoint file"):
        store.read_state(path)


class Listener(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


DM = method("dm", steps=4, batch_real=4, recipe={"network": "convnet-1-w4"})


def run(out: Path, **changes: Any) -> list[str]:
    """Distil to the end; what was said."""
    listener = Listener()
    options = RunOptions(threads=1, checkpoint_seconds=0.0, reporter=listener)
    distill(changes.pop("config", DM), blobs(), Size(ipc=1), out=out, options=options, **changes)
    return listener.messages


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that stopped after 3 of 4 steps, with checkpoints of steps 2 and 3."""

    class StopAtThree(Silent):
        steps = 0

        def advance(self, metrics: object = None) -> None:
            self.steps += 1
            if self.steps == 3:
                os.kill(os.getpid(), 15)

    out = tmp_path / "set.safetensors"
    options = RunOptions(threads=1, checkpoint_seconds=0.0, reporter=StopAtThree())
    with pytest.raises(Interrupted):
        distill(DM, blobs(), Size(ipc=1), out=out, options=options)
    assert [path.name for path in checkpoints(out)] == [
        "checkpoint-00000002.safetensors",
        "checkpoint-00000003.safetensors",
    ]
    return out


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("reference") / "set.safetensors"
    run(out)
    return out.read_bytes()


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.with_suffix(".run").glob("checkpoint-*"))


def test_a_damaged_newest_checkpoint_costs_one_step_and_is_named(stopped: Path, reference: bytes):
    newest = checkpoints(stopped)[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    said = run(stopped)
    assert said[0].startswith(str(newest))
    assert said[0].endswith("the file is damaged; going back to the one before")
    assert said[1] == "resumed at step 2 of 4"
    assert stopped.read_bytes() == reference


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, set_with()], ids=["empty", "zeros", "a set"])
def test_where_no_checkpoint_can_be_read_the_run_starts_over_and_says_so(
    stopped: Path, reference: bytes, damage: bytes
):
    for path in checkpoints(stopped):
        path.write_bytes(damage)
    said = run(stopped)
    assert [line.rpartition("; ")[2] for line in said] == ["going back to the one before", "starting over"]
    assert stopped.read_bytes() == reference


BODIES: list[dict[str, Any]] = [
    {},
    {"step": "2"},
    {"step": -1},
    {"step": 1.5},
    {"step": None},
    {"seconds": "x"},
    {"seconds": -1.0},
    {"identity": []},
    {"identity": None},
    {"environments": 1},
    {"environments": [{}]},
    {"more": 1},
]


@pytest.mark.parametrize("lie", BODIES, ids=str)
def test_a_checkpoint_that_says_nonsense_is_passed_over(stopped: Path, reference: bytes, lie: dict[str, Any]):
    newest = checkpoints(stopped)[-1]
    state, body = store.read_state(newest)
    store.write_state(newest, state, {**body, **lie} if lie else {})
    said = run(stopped)
    assert said[0].isprintable()
    assert said[0].endswith("going back to the one before")
    assert stopped.read_bytes() == reference


@pytest.mark.parametrize("state", [{}, {"pixels": 1}, {"pixels": None, "optimiser": None}], ids=str)
def test_a_state_of_another_version_of_the_method_is_one_line(stopped: Path, state: dict[str, Any]):
    for path in checkpoints(stopped):
        store.write_state(path, state, store.read_state(path)[1])
    before = [path.read_bytes() for path in checkpoints(stopped)]
    with pytest.raises(UserError, match=r"its checkpoint does not fit the method .*fresh=True starts over") as caught:
        run(stopped)
    assert str(caught.value).isprintable()
    assert [path.read_bytes() for path in checkpoints(stopped)] == before


def test_metrics_that_are_no_metrics_do_not_stop_a_run(stopped: Path, reference: bytes):
    metrics = stopped.with_suffix(".run") / "metrics.jsonl"
    metrics.write_bytes(b'5\n[1]\nnull\n"x"\n\xff\xfe\n{"step":\n' + metrics.read_bytes())
    run(stopped)
    assert [record["step"] for record in store.read_lines(metrics)] == [0, 1, 2, 3]
    assert stopped.read_bytes() == reference


WEIGHTS = spec_of(Recipe(network="convnet-1-w4"), (1, 8, 8), 2, StartingPool(distribution="default", count=3))


@pytest.fixture
def weights(tmp_path: Path) -> artefacts.Artefact:
    return artefacts.get(WEIGHTS, cache=tmp_path)


def test_a_part_in_another_parts_place_is_refused(weights: artefacts.Artefact):
    first, second = (weights.folder / f"part-0000{index}.safetensors" for index in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="is not the part that its name says") as caught:
        list(weights)
    assert str(caught.value).startswith(str(second))


@pytest.mark.parametrize("index", [7, -1, "0", None, [0]], ids=str)
def test_a_part_that_lies_about_its_index_is_refused(weights: artefacts.Artefact, index: object):
    path = weights.folder / "part-00001.safetensors"
    tensors, body = store.read_container(path, store.ARTEFACT)
    rest = {"artefact": body["artefact"], "facts": body["facts"], "index": index}
    path.write_bytes(store.container_bytes(store.ARTEFACT, tensors, rest))
    with pytest.raises(UserError, match="is not the part that its name says"):
        weights.part(1)


@pytest.mark.parametrize("key", ["artefact", "index", "facts"])
def test_a_part_that_lacks_a_key_is_refused(weights: artefacts.Artefact, key: str):
    path = weights.folder / "part-00000.safetensors"
    tensors, body = store.read_container(path, store.ARTEFACT)
    rest = {name: body[name] for name in ("artefact", "index", "facts")}
    path.write_bytes(forge(store.ARTEFACT, tensors, rest, body=lambda claims: claims.pop(key)))
    with pytest.raises(UserError, match="does not have the keys artefact, facts, index"):
        weights.part(0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", '{"content": 1}', "[" * 100_000, "\x00", signed({}), canonical({})),
        *(f'{{"parts": {[0] * 9}}}', '{"parts": [NaN' + ", NaN" * 9 + "]}"),
    ],
)
def test_a_damaged_record_of_completeness_is_made_again_from_the_parts(weights: artefacts.Artefact, text: str):
    (weights.folder / "complete.json").write_text(text)
    parts = {path: path.stat().st_mtime_ns for path in weights.folder.glob("part-*")}
    again = artefacts.get(WEIGHTS, cache=weights.folder.parents[2])
    assert again.content == weights.content
    assert parts == {path: path.stat().st_mtime_ns for path in weights.folder.glob("part-*")}


@pytest.mark.parametrize(
    ("tensors", "state"),
    [
        ({"t0": np.zeros(2, np.int8)}, 1),
        ({"t0": np.zeros(2, ">f4")}, 1),
        ({"weights": np.zeros(2)}, 1),
        ({"t1000000": np.zeros(2)}, 1),
        ({f"t{index}": np.zeros(0) for index in range(20_001)}, 1),
        ({}, ['"'] * 3_000_000),  # 12 MB of text, and 18 MB where it is quoted in the header
    ],
    ids=["int8", "big-endian", "name", "long name", "too many", "too long"],
)
def test_what_no_reader_takes_is_refused_when_it_is_written(
    tmp_path: Path, tensors: dict[str, np.ndarray], state: object
):
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(UserError, match="reader"):
        store.write_container(path, store.CHECKPOINT, tensors, {"state": state, "body": {}})
    assert not path.exists()
