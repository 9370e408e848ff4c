"""Banks: encodings against plain formulas, records that are a batch in any order, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_core import artefacts, store, training
from dd_core.augment import views
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.evaluation import Evaluation, evaluate, relabel
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training import bank as banks
from dd_core.training.bank import Bank, opened_bank
from dd_core.training.encodings import Encoding, encoding
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import network_of

TEACHER = {"network": "convnet-1-w8-batchnorm", "epochs": 2, "batch_size": 12}
RECIPE = {"network": "convnet-1-w4", "epochs": 3, "batch_size": 4}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def recovered() -> DistilledSet:
    config = method("sre2l", teacher=TEACHER, recover={"iterations": 2}, recipe=RECIPE)
    return distill(config, blobs(), Size(ipc=2), options=RunOptions(device="cpu"))


def made(ds: DistilledSet, **options: object) -> Bank:
    return relabel(ds, train=blobs(), device="cpu", **options)  # type: ignore[arg-type]


# --- encodings ----------------------------------------------------------------------------------------------------


def logits(classes: int = 20) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(2, 5, classes)) * 6).astype(np.float32)


def back(of: Encoding, values: np.ndarray) -> np.ndarray:
    arrays = of.encode(values)
    assert sum(array.nbytes for array in arrays.values()) == values.shape[0] * values.shape[1] * of.nbytes(
        values.shape[-1]
    )
    return of.decode(arrays, values.shape[-1])


def test_half_precision_comes_back_bit_for_bit():
    half = logits().astype(np.float16)
    assert np.array_equal(back(encoding("fp16"), half.astype(np.float32)).astype(np.float16), half)
    assert back(encoding("fp16"), np.full((1, 1, 2), 1e6, dtype=np.float32)).max() == np.finfo(np.float16).max


def test_the_largest_logits_are_kept_and_the_others_are_their_mean():
    values = logits()
    decoded = back(encoding("top-3"), values)
    for row, answer in zip(values.reshape(-1, 20), decoded.reshape(-1, 20), strict=True):
        top = sorted(range(20), key=lambda k: -row[k])[:3]
        for k in range(20):
            others = [row[j] for j in range(20) if j not in top]
            expected = row[k] if k in top else sum(others) / 17
            assert answer[k] == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert back(encoding("top-50"), values) == pytest.approx(values, rel=1e-3), "of fewer classes all are kept"


def test_eight_bits_are_within_half_a_level():
    values = logits()
    step = (values.max(-1) - values.min(-1)) / 255
    assert (abs(back(encoding("uint8"), values) - values) <= step[..., None] * 0.501).all()
    constant = np.full((1, 1, 4), 2.5, dtype=np.float32)
    assert np.array_equal(back(encoding("uint8"), constant), constant)


@pytest.mark.parametrize("text", ["fp32", "top-0", "top-", "top-3x", "TOP-3", ""])
def test_an_unknown_encoding_is_refused(text: str):
    with pytest.raises(UserError, match="unknown encoding of logits"):
        encoding(text)


# --- records ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eval", "batch-stats"])
def test_a_record_has_the_view_and_what_the_teacher_makes_of_it(mode: str):
    ds = recovered()
    bank = made(ds, teacher_mode=mode, batch_size=4)
    teacher, inputs = network_of(artefacts.get(bank.spec.teacher)), ds.inputs()
    for epoch in (0, 2):
        records = bank.records(epoch)
        shown = views.crops(inputs, records.boxes, records.flips, black=ds.input_form().black)
        shown = views.mix(shown, shown[records.partners], records)
        order = torch.randperm(6, generator=Streams(0).child("bank").generator("order", epoch))
        for rows in order.split(4):
            teacher.train(mode == "batch-stats")
            expected = teacher(shown[rows]).half().float()
            torch.testing.assert_close(bank.logits(epoch)[rows], expected, rtol=2e-3, atol=2e-3)
    assert not torch.equal(bank.records(0).boxes, bank.records(1).boxes)


def test_any_rows_are_a_batch():
    ds = recovered()
    bank = made(ds)
    recipe = ds.manifest.recipe
    lessons = bank.lessons(training.training_data(ds, recipe), temperature=20.0)
    whole, targets = lessons.batch(torch.arange(6), epoch=1, index=0)
    rows = torch.tensor([5, 0, 5])
    part, their = lessons.batch(rows, epoch=1, index=7)
    assert torch.equal(part, whole[rows])
    assert torch.equal(their, targets[rows])
    torch.testing.assert_close(targets, (bank.logits(1) / 20).softmax(1))


def test_parts_of_any_size_and_any_number_of_workers_hold_the_same_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    ds = recovered()
    whole = made(ds, epochs=5)
    assert whole.spec.parts() == 1
    expected = [whole.logits(epoch) for epoch in range(5)]
    monkeypatch.setattr(banks, "PART_BYTES", 2 * 6 * whole.spec.record_bytes)
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "second"))
    parts = made(ds, epochs=5, workers=Workers(threads=1))
    assert parts.spec.parts() == 3
    assert all(torch.equal(parts.logits(epoch), expected[epoch]) for epoch in (0, 4, 2, 3, 1))


def test_the_size_is_told_before_the_start():
    told: list[str] = []

    class Told(RunOptions().reporter.__class__):  # type: ignore[misc]
        def message(self, text: str) -> None:
            told.append(text)

    bank = made(recovered(), epochs=4, encoding="top-2", reporter=Told())
    part = bank.artefact.part(0)[0]
    each = sum(array.nbytes for array in part.values()) / 24
    assert each == bank.spec.record_bytes == 25 + 14
    assert any("24 views, 39 bytes each (top-2); the whole bank takes 0.0 MB" in line for line in told)


# --- training by it -----------------------------------------------------------------------------------------------


def scored(ds: DistilledSet, **options: object) -> Evaluation:
    options = {"protocol": "sre2l-fkd", "nets": 2, **options}
    return evaluate(ds, train=blobs(), test=blobs(), device="cpu", **options)  # type: ignore[arg-type]


def test_networks_learn_from_the_bank_and_the_twin_asks_its_teacher():
    ds = recovered()
    bank, asked = made(ds), scored(ds)
    banked = scored(ds, bank=bank)
    assert banked.random_real == asked.random_real
    assert banked.teacher == asked.teacher
    recipe = ds.manifest.recipe.model_copy(
        update={"loss": "kl", "temperature": 20.0, "decayed": "matrices", "views": None}
    )
    model = training.fit(
        bank.lessons(training.training_data(ds, recipe), temperature=20.0),
        recipe.network,
        recipe,
        streams=Streams(Streams(0).child("network", 0).seed),
        device=CPU,
    )
    assert training.accuracy(model, blobs(), ds.input_form(), device=CPU) == banked.accuracy.per_network[0]


def test_a_bank_does_not_change_a_score_that_is_kept_for_the_asked_teacher(tmp_path: Path):
    ds, keep = recovered(), tmp_path / "scores"
    scored(ds, keep=keep)
    scored(ds, keep=keep, bank=made(ds))
    assert len(list(keep.glob("*.json"))) == 6, "two twins, two by the teacher, two by the bank"


@pytest.mark.parametrize(
    ("bank", "options", "message"),
    [
        ({"epochs": 2}, {}, "has the views of 2 epochs, and networks are trained for 3"),
        ({"teacher_mode": "batch-stats"}, {}, r"a teacher in another mode \(batch-stats\)"),
        ({}, {"protocol": "sre2l-cifar"}, "has the views of 3 epochs, and networks are trained for 400"),
        ({}, {"protocol": "hard"}, "the recipe has no teacher that labels views; leave out the bank"),
        ({}, {"teacher": TeacherConfig()}, "give either a bank or a teacher"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused(bank: dict[str, object], options: dict[str, object], message: str):
    ds = recovered()
    with pytest.raises(UserError, match=message):
        scored(ds, bank=made(ds, **bank), **options)


def test_the_bank_of_another_set_is_refused_by_its_digest():
    ds = recovered()
    other = replace(ds, images=ds.images[::-1].copy())
    with pytest.raises(
        UserError, match=f"digest {ds.digest()[:12]}..., and this set has the digest {other.digest()[:12]}"
    ):
        scored(other, bank=made(ds))


@pytest.mark.parametrize("fields", [{"images": 10**9}, {"image_size": (8, 9)}, {"classes": 10**6}])
def test_a_bank_that_names_the_set_and_claims_more_is_refused_before_it_is_read(fields: dict[str, object]):
    ds = recovered()
    bank = made(ds)
    spec = bank.spec.model_copy(update=fields)
    claiming = Bank(replace(bank.artefact, spec=spec))
    with pytest.raises(UserError, match="has another number or size of images"):
        scored(ds, bank=claiming)


def test_there_is_nothing_to_keep_without_a_teacher():
    with pytest.raises(UserError, match="protocol 'hard' has no teacher that labels views"):
        made(recovered(), protocol="hard")


# --- a bank from anybody ------------------------------------------------------------------------------------------


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(made(recovered()).artefact.folder, tmp_path / "copy"))


def rewritten(folder: Path, name: str, value: object) -> Path:
    """The bank with one array of its part changed, and every checksum right again."""
    part = folder / "part-00000.safetensors"
    tensors, body = store.read_container(part, store.ARTEFACT)
    changed = {**tensors, name: tensors[name].copy()}
    changed[name][(0, 1)] = value
    own = {key: body[key] for key in ("artefact", "index", "facts")}
    store.write_container(part, store.ARTEFACT, changed, own)
    return folder


def test_a_copied_bank_is_the_same_bank(tmp_path: Path):
    ds = recovered()
    bank = opened_bank(copied(tmp_path))
    assert torch.equal(bank.logits(1), made(ds).logits(1))
    assert scored(ds, bank=bank) == scored(ds, bank=made(ds))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes", (0, 0, 0, 8)),
        ("boxes", (0, 0, 9, 8)),
        ("boxes", (-9, 0, 8, 8)),
        ("holes", (-1, 0, 2, 2)),
        ("partners", 6),
        ("partners", -1),
        ("shares", 1.5),
        ("shares", np.nan),
        ("logits", np.inf),
    ],
)
def test_records_that_cannot_be_shown_are_refused(tmp_path: Path, name: str, value: object):
    bank = opened_bank(rewritten(copied(tmp_path), name, value))
    with pytest.raises(UserError, match="part 0 has records with values out of range"):
        bank.records(0)


def test_a_class_that_there_is_not_is_refused(tmp_path: Path):
    folder = Path(shutil.copytree(made(recovered(), encoding="top-2").artefact.folder, tmp_path / "copy"))
    with pytest.raises(UserError, match="values out of range"):
        opened_bank(rewritten(folder, "logits_class", 3)).logits(0)


def test_arrays_of_another_shape_are_refused(tmp_path: Path):
    part = copied(tmp_path) / "part-00000.safetensors"
    tensors, body = store.read_container(part, store.ARTEFACT)
    own = {key: body[key] for key in ("artefact", "index", "facts")}
    for changed in ({**tensors, "flips": tensors["flips"][:, :5]}, {k: v for k, v in tensors.items() if k != "flips"}):
        store.write_container(part, store.ARTEFACT, changed, own)
        with pytest.raises(UserError, match="lacks the records of 6 images in 3 epochs"):
            opened_bank(tmp_path / "copy").records(0)


def test_a_file_that_claims_more_than_its_records_is_not_read(tmp_path: Path):
    part = copied(tmp_path) / "part-00000.safetensors"
    with part.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file costs its sender nothing
    with pytest.raises(UserError, match="is the limit"):
        opened_bank(tmp_path / "copy").records(0)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "experts"}, "is no complete bank"),
        ({"digest": "0" * 64}, "contradicts itself"),
        ({"parts": []}, "contradicts itself"),
        ({"spec": {"images": -1}}, "spec"),
        ({"spec": None}, "spec"),
    ],
)
def test_what_says_something_else_of_itself_is_refused(tmp_path: Path, facts: dict[str, object], message: str):
    file = copied(tmp_path) / "complete.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))
    with pytest.raises(UserError, match=message) as caught:
        opened_bank(tmp_path / "copy")
    assert "\n" not in str(caught.value)


def test_no_folder_and_a_huge_description_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        opened_bank(tmp_path / "nowhere")
    with (copied(tmp_path) / "complete.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="so dd-apps did not write it"):
        opened_bank(tmp_path / "copy")
