"""The random-real twin: which images, and who labels them."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch

from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.evaluation import evaluate, jobs, twins
from dd_core.evaluation.records import digest_of
from dd_core.evaluation.twins import HardLabels, Targets, Twin
from dd_core.images import Source, normalise
from dd_core.methods import method
from dd_core.runner import distill
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training import TrainingData, accuracy, fit, training_data

SOURCE = blobs(per_class=20)
RECIPE = {"network": "convnet-1-w8", "epochs": 8, "learning_rate": 0.05}


class Teacher:
    """Soft labels by brightness: an image of class c is c in one part and the next class in another."""

    def __call__(self, source: Source, rows: torch.Tensor) -> Targets:
        labels = source.labels[rows]
        share = source.take(rows).float().mean((1, 2, 3), keepdim=False)[:, None] / 255
        one_hot = torch.eye(3)
        return Targets(labels, share * one_hot[labels] + (1 - share) * one_hot[(labels + 1) % 3])


@pytest.fixture(scope="module")
def ds() -> DistilledSet:
    return distill(method("random", recipe=RECIPE), SOURCE, Size(counts=(3, 1, 2)), seed=4)


def test_a_twin_has_as_many_images_of_each_class_each_once_as_a_network_is_fed_them(ds: DistilledSet):
    twin = twins.draw(ds, SOURCE, labeller=HardLabels(), streams=Streams(1), index=0).data()
    assert twin.labels.tolist() == [0, 0, 0, 1, 2, 2]
    pixels = ds.manifest.pixels
    real = normalise(SOURCE.images, pixels.mean, pixels.std)
    rows = [next(row for row in range(len(real)) if torch.equal(real[row], image)) for image in twin.inputs]
    assert SOURCE.labels[rows].tolist() == twin.labels.tolist()
    assert len(set(rows)) == 6
    other = twins.draw(ds, SOURCE, labeller=HardLabels(), streams=Streams(1), index=1).data()
    assert not torch.equal(other.inputs, twin.inputs)


def test_twins_are_read_one_after_another_as_their_networks_are_trained(
    ds: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = evaluate(ds, train=SOURCE, test=SOURCE, nets=5, device="cpu")
    read: list[weakref.ref] = []
    alive: list[int] = []
    data = Twin.data

    def noted(self: Twin) -> TrainingData:
        alive.append(sum(one() is not None for one in read))
        found = data(self)
        read.append(weakref.ref(found.inputs))
        return found

    monkeypatch.setattr(Twin, "data", noted)
    assert evaluate(ds, train=SOURCE, test=SOURCE, nets=5, device="cpu") == plain
    assert (len(read), max(alive)) == (5, 1)
    read.clear()
    assert evaluate(ds, train=SOURCE, test=SOURCE, nets=5, device="cpu", keep=tmp_path) == plain
    assert (len(read), max(alive)) == (10, 1)  # once more for the names of the kept scores
    again = evaluate(ds, train=SOURCE, test=SOURCE, nets=5, device="cpu", keep=tmp_path)
    assert again == plain
    assert (len(read), max(alive)) == (15, 1)  # for the names alone


def test_kept_scores_are_named_by_what_their_twins_hold(ds: DistilledSet, tmp_path: Path):
    evaluate(ds, train=SOURCE, test=SOURCE, nets=2, seed=5, device="cpu", labeller=Teacher(), keep=tmp_path)
    kept = {json.loads(path.read_text())["facts"]["data"] for path in tmp_path.iterdir()}
    drawn = (twins.draw(ds, SOURCE, labeller=Teacher(), streams=Streams(5), index=index).data() for index in range(2))
    assert kept == {digest_of(training_data(ds, ds.manifest.recipe)), *map(digest_of, drawn)}


def test_a_twin_that_cannot_be_drawn_is_refused_before_a_network_is_trained(
    ds: DistilledSet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "work", lambda job: pytest.fail("a network was trained"))
    with pytest.raises(UserError, match="class"):
        evaluate(ds, train=SOURCE.subset(torch.tensor([0, 1, 20, 40, 41])), test=SOURCE, nets=2, device="cpu")


def test_hard_labels_are_the_sources_and_an_attacked_class_has_the_label_of_its_target():
    rows = torch.arange(6)
    labels, probabilities = HardLabels()(SOURCE, rows)
    assert (labels.tolist(), probabilities) == (SOURCE.labels[rows].tolist(), None)
    attacked = HardLabels((1, 2))(SOURCE, rows).labels
    assert attacked.tolist() == [2 if label == 1 else label for label in SOURCE.labels[rows].tolist()]


def test_whoever_labelled_the_set_labels_the_twin_it_is_trained_on(ds: DistilledSet):
    """Scores of twins with a teacher's soft labels, against networks trained on them here by hand."""
    noisy = blobs(per_class=40)
    result = evaluate(ds, train=SOURCE, test=noisy, nets=2, seed=5, device="cpu", labeller=Teacher())
    streams, cpu = Streams(5), torch.device("cpu")
    expected = []
    for index in range(2):
        twin = twins.draw(ds, SOURCE, labeller=HardLabels(), streams=streams, index=index).data()
        one_hot, share = torch.eye(3)[twin.labels], _raw(ds, twin.inputs).mean((1, 2, 3))[:, None]
        soft = share * one_hot + (1 - share) * one_hot.roll(1, dims=1)
        data, seed = TrainingData(twin.inputs, twin.labels, soft, 3), streams.child("network", index).seed
        model = fit(data, "convnet-1-w8", ds.manifest.recipe, streams=Streams(seed), device=cpu)
        expected.append(accuracy(model, noisy, ds.input_form(), device=cpu))
    assert result.random_real.per_network == tuple(expected)
    hard = evaluate(ds, train=SOURCE, test=noisy, nets=2, seed=5, device="cpu")
    assert hard.random_real != result.random_real
    assert hard.accuracy == result.accuracy, "the set keeps the labels that it has"


def _raw(ds: DistilledSet, inputs: torch.Tensor) -> torch.Tensor:
    return inputs * ds.manifest.pixels.std[0] + ds.manifest.pixels.mean[0]
