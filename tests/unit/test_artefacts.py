"""Artefacts: found or made, in parts, and never handed over half made; what names them, and what they are made from."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest
from filelock import FileLock

from dd_core import artefacts, store
from dd_core.artefacts import ArtefactSpec, Resources
from dd_core.config import digest
from dd_core.datasets.folder_pixels import FolderPixelsSpec
from dd_core.errors import UserError
from dd_core.methods.trajectory_matching.expert_training import Sharpness, Training
from dd_core.methods.trajectory_matching.experts import ExpertsSpec
from dd_core.recipe import Pretraining, Recipe, StartingPool
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages, Silent
from dd_core.testing import blobs
from dd_core.training.starts import StartingWeightsSpec, spec_of
from dd_core.zca import WhiteningSpec


class Squares(ArtefactSpec):
    """Part i is i squared times a resource; counts how often each part is made in a file."""

    kind: ClassVar[str] = "squares"
    count: int
    fail_at: int = -1

    def parts(self) -> int:
        return self.count

    def digest(self) -> str:
        return digest({"squares": self.count})

    def make_part(self, index, *, resources, progress):
        store.append_line(resources, {"made": index})
        if index == self.fail_at:
            raise UserError("no more")
        return {"value": np.array([index**2])}, {"index": index}


class Several(Squares):
    """Squares whose jobs make up to `size` parts, the last first; a log has each job's."""

    size: int = 3

    def digest(self) -> str:
        return digest({"squares": self.count})

    def at_once(self, resources, *, processes):
        return self.size

    def make_parts(self, indices, *, resources, progress):
        store.append_line(resources, {"job": [*indices], "progress": [progress[index].path.name for index in indices]})
        yield from super().make_parts(indices[::-1], resources=resources, progress=progress)


POOL = spec_of(Recipe(network="convnet-2-w16"), (1, 8, 8), 3, StartingPool(distribution="default", count=3, seed=4))


def test_it_is_made_once(tmp_path):
    log = tmp_path / "log"
    assert not artefacts.complete(Squares(count=3), cache=tmp_path)
    made = artefacts.get(Squares(count=3), resources=log, cache=tmp_path)
    assert artefacts.complete(Squares(count=3), cache=tmp_path)
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


@pytest.mark.parametrize(
    ("workers", "jobs"),
    [
        (Workers(count=1), [[0, 1, 2], [3, 4, 5], [6]]),
        (Workers(count=2), [[0, 1, 2], [3, 4, 5], [6]]),
        (Workers(count=3), [[0, 1], [2, 3], [4, 5], [6]]),
        (Workers(count=2, engine="dask"), [[index] for index in range(7)]),  # whose devices are not known here
    ],
)
def test_a_job_makes_several_parts_but_leaves_none_to_waiting_workers(
    tmp_path, monkeypatch, workers: Workers, jobs: list[list[int]]
):
    # in this process: another one cannot import these specs
    monkeypatch.setattr(artefacts.parallel, "run", lambda function, jobs, **_: map(function, jobs))
    log = tmp_path / "log"
    made = artefacts.get(Several(count=7), resources=log, cache=tmp_path, workers=workers)
    assert [tensors["value"].item() for tensors, _ in made] == [index**2 for index in range(7)]
    assert made.content == artefacts.get(Squares(count=7), resources=log, cache=tmp_path / "other").content
    told = [record for record in store.read_lines(log) if "job" in record]
    assert [record["job"] for record in told] == jobs
    names = [name for record in told for name in record["progress"]]
    assert names == [f"part-{index:05d}.progress" for index in range(7)]


def test_parts_that_a_job_had_made_are_kept_where_it_fails_or_begins_again(tmp_path):
    log, spec = tmp_path / "log", Several(count=3, fail_at=0)
    with pytest.raises(UserError, match="no more"):
        artefacts.get(spec, resources=log, cache=tmp_path)
    artefacts.get(Several(count=3), resources=log, cache=tmp_path)
    assert [record["made"] for record in store.read_lines(log) if "made" in record] == [2, 1, 0, 0]
    job = artefacts._PartsJob(Several(count=3), [0, 1, 2], artefacts._folder_of(spec, tmp_path), log)
    artefacts._part_path(job.folder, 1).unlink()
    artefacts._make(job)  # as for a job whose worker died
    assert [record["made"] for record in store.read_lines(log) if "made" in record][4:] == [1]


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


# --- what names an artefact ----------------------------------------------------------------------------------------

SOURCE = "ab" * 32


def experts(**fields: Any) -> ExpertsSpec:
    whole = {"source": SOURCE, "network": "convnet-3", "image_shape": (3, 32, 32), "classes": 10, "count": 100}
    return ExpertsSpec(**{**whole, "training": Training(), **fields})


FLAT = Training(epochs=20, momentum=0.5, decay=True, sharpness=Sharpness(alpha=1.0), dtype="bfloat16")
PRETRAINED = StartingPool(
    distribution="xavier",
    count=20,
    seed=4,
    held_out=True,
    pretraining=Pretraining(source=SOURCE, name="mnist", epochs=2),
)
# whoever changes one of these has artefacts in every cache made again
DIGESTS: dict[str, tuple[ArtefactSpec, str]] = {
    "experts": (experts(), "8026854ca8ef3fc7d779b3b4ad3a4976a353765722d56a5b27f95ccaaa4fb346"),
    "fewer experts": (experts(count=3), "8026854ca8ef3fc7d779b3b4ad3a4976a353765722d56a5b27f95ccaaa4fb346"),
    "other experts": (
        experts(initialisation="xavier", seed=7, zca=True, training=FLAT, first=2, last=5, final=True),
        "c09af847ef0f3aa8c17fb70dce5a530e52c2231aa82c386e72b87df323a76205",
    ),
    "whitening": (
        WhiteningSpec(source=SOURCE, image_shape=(1, 8, 8)),
        "0b0c6589b6b021c696174703e8c711db8577cbb693056eea4d80e10e19660c35",
    ),
    "another whitening": (
        WhiteningSpec(source=SOURCE, image_shape=(1, 8, 8), epsilon=0.2),
        "54175b30f0248f38bbad11de25959f429a0ffd4eafce91d0e80c63d84a19e71f",
    ),
    "starting weights": (
        spec_of(Recipe(network="lenet"), (1, 28, 28), 10, StartingPool(distribution="default", count=3)),
        "f98062ffeaff3e94c829d274a5e205966a286a53ef1519f612de4298eac27434",
    ),
    "pre-trained weights": (
        spec_of(Recipe(network="lenet"), (1, 28, 28), 10, PRETRAINED),
        "19a61f76bdbb7c0cd04c0eb87345e7f4e34f8638831a4a7f735f287e7eb0c850",
    ),
    "folder": (
        FolderPixelsSpec(fingerprint=SOURCE, shape=(3, 32, 32), count=100, part_size=40, pillow="11.3.0", decoding=2),
        "1e1faae3a5c52c3f02e3ed9224f8efb1ca93fd27d2389154cf1f8cf27713df24",
    ),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_what_lies_in_a_cache_is_found_under_the_digest_that_it_was_made_under(name: str):
    spec, expected = DIGESTS[name]
    assert spec.digest() == expected


class Cubes(ArtefactSpec):
    """Like a spec of an earlier release."""

    kind: ClassVar[str] = "cubes"
    count: int

    def make_part(self, index, *, resources, progress):
        return {"value": np.array([index**3])}, {}


class CubesLater(Cubes):
    """The same with a field that was added."""

    side: int = 1


class CubesDigested(CubesLater):
    digested: ClassVar[frozenset[str]] = frozenset({"side"})


class CubesMended(Cubes):
    version: ClassVar[int] = 2


def test_a_field_at_its_default_is_not_in_the_digest_and_a_version_is():
    assert Cubes(count=3).digest() == digest({"kind": "cubes", "spec": {"count": 3}})
    assert CubesLater(count=3).digest() == Cubes(count=3).digest()
    assert CubesLater(count=3, side=2).digest() == digest({"kind": "cubes", "spec": {"count": 3, "side": 2}})
    assert CubesDigested(count=3).digest() == digest({"kind": "cubes", "spec": {"count": 3, "side": 1}})
    assert CubesMended(count=3).digest() == digest({"kind": "cubes", "spec": {"count": 3}, "versions": [["cubes", 2]]})


# --- what an artefact is made from ---------------------------------------------------------------------------------


class Brightness(ArtefactSpec):
    """The sum of all pixels."""

    kind: ClassVar[str] = "brightness"
    source_option: ClassVar[str] = "pretrain_on"
    source: str
    name: str = ""

    def sources(self):
        return {self.source: self.name}

    def make_part(self, index, *, resources, progress):
        images = resources.sources[self.source].images
        return {"sum": np.array([int(images.sum())])}, {"given": [*resources.sources, *resources.artefacts]}


class Share(ArtefactSpec):
    """Each image's share of that sum."""

    kind: ClassVar[str] = "share"
    source: str

    def needs(self):
        return {"sum": Brightness(source=self.source)}

    def sources(self):
        return {self.source: ""}

    def make_part(self, index, *, resources, progress):
        whole, _ = resources.artefacts["sum"].part(0)
        sums = resources.sources[self.source].images.sum((1, 2, 3)).numpy()
        return {"share": sums / whole["sum"]}, {"given": [*resources.sources, *resources.artefacts]}


BLOBS, OTHERS = blobs(), blobs(per_class=5)
BOTH = Resources.of([OTHERS, BLOBS], device="cpu")


def test_what_an_artefact_needs_is_made_first_and_handed_to_its_parts(tmp_path):
    said: list[str] = []
    spec = Share(source=BLOBS.fingerprint())
    made = artefacts.get(spec, resources=BOTH, cache=tmp_path, reporter=Messages(said.append))
    sums = BLOBS.images.sum((1, 2, 3)).double()
    assert made.part(0)[0]["share"].tolist() == pytest.approx((sums / sums.sum()).tolist())
    kinds = sorted(row["kind"] for row in artefacts.listing(tmp_path))
    assert kinds == ["brightness", "share"]
    said.clear()
    assert artefacts.get(spec, cache=tmp_path, reporter=Messages(said.append)).content == made.content
    assert said == [], "it is found, and nothing is made"


def test_only_the_images_and_artefacts_that_are_meant_travel_to_the_jobs(tmp_path):
    made = artefacts.get(Share(source=BLOBS.fingerprint()), resources=BOTH, cache=tmp_path)
    assert made.part(0)[1]["given"] == [BLOBS.fingerprint(), "sum"]
    whole = artefacts.get(Brightness(source=BLOBS.fingerprint()), cache=tmp_path)
    assert whole.part(0)[1]["given"] == [BLOBS.fingerprint()]


@pytest.mark.parametrize("resources", [None, Resources.of([OTHERS])])
def test_images_that_are_missing_are_named_with_the_option_that_gives_them(tmp_path, resources):
    spec = Brightness(source=BLOBS.fingerprint(), name="blobs")
    with pytest.raises(UserError) as caught:
        artefacts.get(spec, resources=resources, cache=tmp_path)
    fingerprint = BLOBS.fingerprint()[:12]
    assert str(caught.value) == (
        f"making brightness needs the images of 'blobs' with the fingerprint {fingerprint}..., not at hand; give them "
        "as pretrain_on"
    )
    with pytest.raises(UserError, match=rf"^making share needs images with the fingerprint {fingerprint}..., not at h"):
        artefacts.get(Share(source=BLOBS.fingerprint()), resources=Resources.of([]), cache=tmp_path)


def test_a_new_version_of_what_is_needed_makes_it_again(monkeypatch):
    spec = Share(source=BLOBS.fingerprint())
    before = spec.digest()
    assert before == digest({"kind": "share", "spec": {"source": BLOBS.fingerprint()}})
    monkeypatch.setattr(Brightness, "version", 3)
    assert spec.digest() == digest(
        {"kind": "share", "spec": {"source": BLOBS.fingerprint()}, "versions": [["brightness", 3]]}
    )


def test_whitened_experts_are_made_from_the_whitening():
    assert experts().needs() == {}
    assert experts(zca=True).needs() == {"whitening": WhiteningSpec(source=SOURCE, image_shape=(3, 32, 32))}
    assert experts().sources() == {SOURCE: ""}
    assert isinstance(POOL, StartingWeightsSpec)
    assert POOL.sources() == {}
    pretrained = spec_of(Recipe(network="lenet"), (1, 28, 28), 10, PRETRAINED)
    assert pretrained.sources() == {SOURCE: "mnist"}


def test_what_is_made_and_what_is_there_is_told_with_a_stage_for_the_parts(tmp_path):
    class Listener(Silent):
        @contextmanager
        def stage(self, name, *, total, first=0):
            heard.append(f"stage {name}: {first} of {total}")
            yield self

        def advance(self, metrics=None):
            heard.append("advance")

        def message(self, text):
            heard.append(text)

    class Growing(Squares):
        def digest(self) -> str:
            return digest("squares")

    class Counted(Squares):
        verb = "counting"
        noun = "square of side"

    heard: list[str] = []
    for count in (1, 3, 4):
        artefacts.get(Growing(count=count), resources=tmp_path / "log", cache=tmp_path, reporter=Listener())
    assert heard == [
        "making 1 part of squares, which is kept for later runs",
        "stage parts of squares: 0 of 1",
        "advance",
        "making 2 more parts of squares (1 of 3 are in the cache); kept for later runs",
        "stage parts of squares: 1 of 3",
        "advance",
        "advance",
        "making 1 more part of squares (3 of 4 are in the cache); kept for later runs",
        "stage parts of squares: 3 of 4",
        "advance",
    ]
    heard.clear()
    artefacts.get(Counted(count=2), resources=tmp_path / "log", cache=tmp_path / "other", reporter=Listener())
    assert heard[0] == "counting 2 squares of side (0 of 2 are in the cache); kept for later runs"
    Counted.noun = "batch of squares"
    artefacts.get(Counted(count=2), resources=tmp_path / "log", cache=tmp_path / "third", reporter=Listener())
    assert "counting 2 batches of squares (0 of 2 are in the cache); kept for later runs" in heard
