"""A memory whose room becomes smaller: which images a class keeps, or what is distilled from those that it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_streams import PIXELS, benchmark, linear, strategy_of

from dd_apps.continual import ContinualScenario, DistilledBuffer, HybridBuffer
from dd_apps.continual.job import Job
from dd_apps.continual.learner import run_job
from dd_apps.continual.strategies import Where, memory_for
from dd_core.config import decode
from dd_core.errors import UserError

STREAM = benchmark().train_stream


def memory_of(count: int, *, strategy=None, **options) -> DistilledBuffer:
    """8 images for the classes seen so far, after `count` experiences: 4, 2 and 1 a class; k-means makes averages."""
    options = {"images_per_class": 4, "method": "k-means", "shrinking": "distil"} | options
    memory = DistilledBuffer(8, **options)
    for experience in STREAM[:count]:
        memory.post_adapt(strategy, experience)
    return memory


def test_fewer_images_are_distilled_from_those_that_the_memory_has():
    """One cluster of two images is their mean; the classes that have just arrived are of their real images."""
    before, after = memory_of(2), memory_of(3)
    for label in (4, 1, 0, 5):
        two = before.buffer_groups[label].images
        assert len(two) == 2
        mean = two.double().mean(0, keepdim=True)
        assert torch.equal(after.buffer_groups[label].images, (mean + 0.0).round().to(torch.uint8))
    assert after.nbytes == 6 * PIXELS
    first = memory_of(3, shrinking="first")
    assert torch.equal(first.buffer_groups[4].images, memory_of(1, shrinking="first").buffer_groups[4].images[:1])
    assert not torch.equal(first.buffer_groups[4].images, after.buffer_groups[4].images)
    assert torch.equal(first.buffer_groups[2].images, after.buffer_groups[2].images), "of its real images in both"


def test_real_images_of_an_old_experience_are_not_needed(monkeypatch: pytest.MonkeyPatch):
    memory = memory_of(2)
    stored = {label: group.images for label, group in memory.buffer_groups.items()}
    sources: list[torch.Tensor] = []
    distilled = DistilledBuffer._distilled

    def noted(self, source, *rest):
        sources.append(source.images)
        return distilled(self, source, *rest)

    monkeypatch.setattr(DistilledBuffer, "_distilled", noted)
    memory.post_adapt(None, STREAM[2])
    assert [len(images) for images in sources] == [12, 4, 4], "real images of two classes, and twice what is stored"
    assert torch.equal(sources[1], torch.cat([stored[1], stored[4]]))


def test_resizing_distils_too_and_a_share_that_stays_is_left_alone():
    memory = memory_of(1)
    held = memory.sets
    memory.resize(None, 9)
    assert memory.sets[0] is held[0]
    four = memory.buffer_groups[4].images
    memory.resize(None, 2)
    assert torch.equal(memory.buffer_groups[4].images, four.double().mean(0, keepdim=True).round().to(torch.uint8))


def test_labels_are_those_of_the_network_at_hand_over_the_classes_seen_by_then():
    old, new = strategy_of(linear()), strategy_of(linear(6))
    torch.nn.init.ones_(new.model[2].weight)
    memory = memory_of(2, strategy=old, labels="network")
    memory.post_adapt(new, STREAM[2])
    for ds in memory.sets:
        assert ds.targets is not None
        assert ds.targets.shape == (2, 6)
    images = memory.buffer_groups[4].images
    expected = new.model.eval()(images.float() / 255).softmax(1)[:, list(memory.outputs_of.values())]
    soft = memory.buffer_groups[4].soft
    assert soft is not None
    assert torch.allclose(soft, expected, atol=1e-3)


def test_a_memory_that_was_distilled_again_is_saved_and_found_again(tmp_path: Path):
    memory = memory_of(3, folder=tmp_path / "sets")
    memory.save(tmp_path / "memory")
    again = DistilledBuffer(8, images_per_class=4, method="k-means", shrinking="distil")
    again.restore(tmp_path / "memory", STREAM)
    assert [ds.digest() for ds in again.sets] == [ds.digest() for ds in memory.sets]
    assert again.provenances == memory.provenances
    assert [provenance.source_images for provenance in memory.provenances] == [4, 4, 12]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "sets").glob("*.safetensors")}
    assert len(files) == 3 + 1 + 2, "three experiences; the first again at four classes; two again at six"
    assert [ds.digest() for ds in memory_of(3, folder=tmp_path / "sets").sets] == [ds.digest() for ds in memory.sets]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    with pytest.raises(UserError, match="has a memory with shrinking='distil', and this one has shrinking='first'"):
        DistilledBuffer(8, images_per_class=4, method="k-means").restore(tmp_path / "memory", STREAM)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="unknown rule of shrinking 'last'"):
        memory_of(0, shrinking="last")
    with pytest.raises(UserError, match="a hybrid memory keeps its first images"):
        HybridBuffer(8, images_per_class=4, shrinking="distil")


# --- rows --------------------------------------------------------------------------------------------------------

TINY = {
    "data": "digits",
    "experiences": 2,
    "orders": 1,
    "images_per_class": 2,
    "network": "convnet-1-w4",
    "method": {"name": "k-means"},
    "row": {
        "shared": {"adaptive": True},
        "again": {"adaptive": True, "shrinking": "distil"},
        "soft": {"adaptive": True, "shrinking": "distil", "labels": "network"},
    },
    "rows": ["distilled", "shared", "again", "soft"],
    "replay": {"epochs": 1, "batch_size": 64, "batch_size_mem": 16},
    "retraining": {"epochs": 1},
}


def test_rows_of_a_shared_room_end_with_the_bytes_of_the_others(tmp_path: Path):
    scenario = decode(ContinualScenario, TINY)
    outcomes = {row: run_job(Job(scenario, row, 0, tmp_path, "cpu")) for row in scenario.rows}
    ledgers = {row: outcome.trials["replay"][0].ledger for row, outcome in outcomes.items()}
    assert {row: (ledger.images, ledger.nbytes) for row, ledger in ledgers.items()} == {
        "distilled": (20, 20 * 64),
        "shared": (20, 20 * 64),
        "again": (20, 20 * 64),
        "soft": (10, 10 * 64 + 10 * 2 * 10),  # 1280 bytes: 84 an image, of which ten classes have one each
    }
    images = {row: outcome.memory.images for row, outcome in outcomes.items() if outcome.memory is not None}
    assert not (images["shared"] == images["again"]).all()
    memory = memory_for(scenario, "again", "replay", Where("digits", 10, 0, tmp_path, image_shape=(1, 8, 8)))
    assert isinstance(memory, DistilledBuffer)
    assert (memory.max_size, memory.images_per_class, memory.shrinking) == (20, 20, "distil")


@pytest.mark.parametrize("changes", [{}, {"memory": "hybrid", "adaptive": True}])
def test_a_row_whose_room_stays_does_not_shrink(changes: dict[str, object]):
    row = {"shrinking": "distil", **changes}
    with pytest.raises(UserError, match=r"row\.a: shrinking: only the room of a distilled memory with adaptive = true"):
        decode(ContinualScenario, TINY | {"row": {"a": row}, "rows": ["a"]})
