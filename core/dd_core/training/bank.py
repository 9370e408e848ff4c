"""A bank: the views of a set in every epoch, with a teacher's logits (relabel of SRe2L; FKD: Shen and Xing 2022).

There is one complete record for each (epoch, row): the view's box and whether it is mirrored, which other row is mixed
in, with which share and where, and the teacher's logits. So any list of rows is a batch: the size and the order of
mini-batches and the number of workers are free.

A bank is an artefact, whose parts are ranges of epochs. It belongs to the one set whose digest it names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor

from dd_core import artefacts
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Tensors
from dd_core.augment import views
from dd_core.augment.view_config import Views
from dd_core.augment.views import Records
from dd_core.config import checked
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.recipe import Labelling
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Reporter
from dd_core.training.encodings import encoding
from dd_core.training.lessons import Lessons, TrainingData
from dd_core.training.teachers import TeacherSpec, asked
from dd_core.training.viewing import AskedTeacher, TaughtLessons, ViewedLessons

Side = Annotated[int, Field(ge=1, lt=2**15)]  # of an image, in pixels
PART_BYTES = 64 << 20  # most bytes of a part, though a part has at least one epoch


class BankSpec(ArtefactSpec):
    """Views of `images` images in each of `epochs` epochs, labelled by a teacher."""

    kind: ClassVar[str] = "bank"
    verb: ClassVar[str] = "labelling"
    noun: ClassVar[str] = "part of the epochs"

    set_digest: str = Field(pattern="[0-9a-f]{64}", description="digest of the set")
    images: int = Field(ge=1, description="number of images of the set")
    image_size: tuple[Side, Side] = Field(description="height and width of the set's images, in pixels")
    classes: int = Field(ge=1, description="number of classes")
    teacher: TeacherSpec = Field(description="the teacher")
    mode: Labelling = Field(description="statistics of the teacher's batch norms: eval or batch-stats")
    views: Views = Field(description="how views are drawn")
    epochs: int = Field(ge=1, description="number of epochs")
    batch_size: int = Field(default=256, ge=1, description="views that the teacher labels together")
    encoding: str = Field(default="fp16", description="how logits are stored: fp16, uint8, or top-K such as top-10")
    seed: int = Field(default=0, ge=0, description="seed of views, and of mini-batches")

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, text: str) -> str:
        return checked(text, encoding)

    @property
    def record_bytes(self) -> int:
        """Bytes of one record: (4 + 4) sides, a flip, a partner, a share, and logits."""
        return 8 * 2 + 1 + 4 + 4 + encoding(self.encoding).nbytes(self.classes)

    @property
    def epochs_a_part(self) -> int:
        """How many epochs a part has: as many as fit into `PART_BYTES`, at least 1."""
        return max(1, min(self.epochs, PART_BYTES // (self.images * self.record_bytes)))

    def part_bytes(self) -> int:
        """Bytes of a full part's records, without the file's header."""
        return self.epochs_a_part * self.images * self.record_bytes

    def parts(self) -> int:
        """The number of parts, of `epochs_a_part` epochs each."""
        return math.ceil(self.epochs / self.epochs_a_part)

    def cost(self, resources: Any, parts: int) -> str:
        """The number of views and their bytes on disk, as text."""
        del resources
        labelled = min(self.epochs, parts * self.epochs_a_part) * self.images
        whole = self.epochs * self.images * self.record_bytes
        each = f"{self.record_bytes} bytes each ({self.encoding})"
        return f"{labelled:,} views, {each}; the whole bank takes {whole / 1e6:,.1f} MB"

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Draw the views of a part's epochs, and let the teacher label them. `resources` is a `BankInputs`."""
        del progress
        inputs: BankInputs = resources
        device = devices.resolve(inputs.device)
        teacher = asked(inputs.teacher, mode=self.mode).to(device)
        first = index * self.epochs_a_part
        epochs = range(first, min(self.epochs, first + self.epochs_a_part))
        records = [self.draw(epoch) for epoch in epochs]
        lessons = ViewedLessons(inputs.data.to(device), self.draw, mixes=self.views.mix != "none")
        logits = [self._logits(lessons, epoch, teacher) for epoch in epochs]
        return {**stacked(records), **encoding(self.encoding).encode(np.stack(logits))}, {}

    def draw(self, epoch: int) -> Records:
        """The views of all images in an epoch."""
        generator = Streams(self.seed).child("bank").generator("views", epoch)
        return views.draw(self.views, count=self.images, image_size=self.image_size, generator=generator)

    def _logits(self, lessons: ViewedLessons, epoch: int, teacher: AskedTeacher) -> Float[np.ndarray, "N K"]:
        logits = torch.empty(self.images, self.classes)
        for index, rows in enumerate(self._batches(epoch)):
            shown, _ = lessons.batch(rows, epoch=epoch, index=index)
            logits[rows] = teacher.logits(shown, rows, epoch=epoch).float().cpu()
        return logits.numpy()

    def _batches(self, epoch: int) -> Iterator[Int64[Tensor, " n"]]:
        """Rows that the teacher labels together, in random order, as a teacher may normalise by the mini-batch."""
        order = torch.randperm(self.images, generator=Streams(self.seed).child("bank").generator("order", epoch))
        yield from order.split(self.batch_size)


@dataclass(frozen=True)
class BankInputs:
    """The inputs of making a bank: a set, its teacher, and a device."""

    data: TrainingData
    teacher: Artefact
    device: str


@dataclass(frozen=True, eq=False)
class Bank:
    """A bank on disk: views of a set with the logits of a teacher."""

    artefact: Artefact

    @property
    def spec(self) -> BankSpec:
        """The spec of the bank."""
        spec = self.artefact.spec
        assert isinstance(spec, BankSpec)
        return spec

    def require_for(self, ds: DistilledSet) -> None:
        """Raise `UserError` for the bank of another set."""
        if ds.digest() != self.spec.set_digest:
            raise UserError(
                f"{self.artefact.folder}: is the bank of the set with the digest {self.spec.set_digest[:12]}..., and "
                f"this set has the digest {ds.digest()[:12]}...; give the bank of this set"
            )
        spec, shape = self.spec, ds.images.shape
        if (spec.images, spec.image_size, spec.classes) != (ds.decoded_count, shape[2:], len(ds.classes)):
            raise UserError(f"{self.artefact.folder}: has another number or size of images than the set that it names")

    def lessons(self, data: Lessons, *, temperature: float) -> TaughtLessons:
        """Lessons of the bank's views of the set's images `data`, with the teacher's probabilities as targets."""
        shown = ViewedLessons(data, self.records, mixes=self.spec.views.mix != "none")
        return TaughtLessons(shown, _Answers(self, torch.device("cpu")), temperature=temperature)

    def records(self, epoch: int) -> Records:
        """The views of all images in an epoch; raises `UserError` for an epoch that the bank does not have."""
        tensors, row = self._part(epoch)
        return Records(
            boxes=_tensor(tensors["boxes"][row]).long(),
            flips=_tensor(tensors["flips"][row]),
            partners=_tensor(tensors["partners"][row]).long(),
            shares=_tensor(tensors["shares"][row]),
            holes=_tensor(tensors["holes"][row]).long(),
        )

    def logits(self, epoch: int) -> Float[Tensor, "N K"]:
        """The teacher's logits for all views of an epoch."""
        tensors, row = self._part(epoch)
        arrays = {name: array[row] for name, array in tensors.items() if name.startswith("logits")}
        return torch.from_numpy(encoding(self.spec.encoding).decode(arrays, self.spec.classes))

    def _part(self, epoch: int) -> tuple[Tensors, int]:
        if epoch >= self.spec.epochs:
            raise UserError(
                f"{self.artefact.folder}: has views for {self.spec.epochs} epochs, and training needs more; set epochs "
                "accordingly, or make a longer bank"
            )
        index, row = divmod(epoch, self.spec.epochs_a_part)
        if self._latest.get("index") != index:
            tensors, _ = self.artefact.part(index)
            _check_part(tensors, self.spec, index, folder=self.artefact.folder)
            self._latest.update(index=index, tensors=tensors)
        return self._latest["tensors"], row

    @cached_property
    def _latest(self) -> dict[str, Any]:
        """The part that was read last, as epochs are read in order."""
        return {}


class _Answers:
    """A bank in the role of its teacher: a `Teacher` that gives the stored logits."""

    def __init__(self, bank: Bank, device: torch.device) -> None:
        self._bank, self._device = bank, device
        self._latest: tuple[int, Tensor] | None = None

    def to(self, device: torch.device) -> _Answers:
        """The same answers with logits on `device`."""
        return _Answers(self._bank, device)

    def logits(self, views: Tensor, rows: Int64[Tensor, " n"], *, epoch: int) -> Float[Tensor, "n K"]:
        """The stored logits of `rows` in an epoch."""
        del views
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self._bank.logits(epoch))
        return self._latest[1][rows].to(self._device)


def stacked(records: Sequence[Records]) -> dict[str, np.ndarray]:
    """The records of E epochs of N images as the arrays of a part, (E, N, ...) each."""
    return {
        "boxes": np.stack([each.boxes.numpy() for each in records]).astype(np.int16),
        "holes": np.stack([each.holes.numpy() for each in records]).astype(np.int16),
        "flips": np.stack([each.flips.numpy() for each in records]),
        "partners": np.stack([each.partners.numpy() for each in records]).astype(np.int32),
        "shares": np.stack([each.shares.numpy() for each in records]),
    }


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy())  # arrays from disk are read-only


def _check_part(tensors: Tensors, spec: BankSpec, index: int, *, folder: Path) -> None:
    """Raise `UserError` for arrays that are not the records of a part, as a bank may come from elsewhere."""
    epochs = min(spec.epochs_a_part, spec.epochs - index * spec.epochs_a_part)
    rows, (height, width) = (epochs, spec.images), spec.image_size
    blank = encoding(spec.encoding).encode(np.zeros((1, spec.classes), dtype=np.float32))
    expected = {"boxes": (*rows, 4), "holes": (*rows, 4), "flips": rows, "partners": rows, "shares": rows}
    expected |= {name: (*rows, *array.shape[1:]) for name, array in blank.items()}
    dtypes = {"boxes": "int16", "holes": "int16", "flips": "bool", "partners": "int32", "shares": "float32"}
    dtypes |= {name: array.dtype.name for name, array in blank.items()}
    given = {name: (array.shape, array.dtype.name) for name, array in tensors.items()}
    if given != {name: (shape, dtypes[name]) for name, shape in expected.items()}:
        raise UserError(f"{folder}: part {index} lacks the records of {spec.images} images in {epochs} epochs")
    sides = tensors["boxes"][..., 2:]
    partners = tensors["partners"]
    fits = (
        (sides > 0).all()
        and (sides <= (height, width)).all()
        and (abs(tensors["boxes"][..., :2]) <= (height, width)).all()
        and (tensors["holes"] >= 0).all()
        and (partners >= 0).all()
        and (partners < spec.images).all()
        and (tensors["shares"] >= 0).all()
        and (tensors["shares"] <= 1).all()
    )
    if "logits_class" in tensors:
        fits = fits and (tensors["logits_class"] >= 0).all() and (tensors["logits_class"] < spec.classes).all()
    if not fits or not all(np.isfinite(array).all() for array in tensors.values() if array.dtype.kind == "f"):
        raise UserError(f"{folder}: part {index} has records with values out of range; make the bank again")


def bank_of(
    ds: DistilledSet,
    data: TrainingData,
    teacher: Artefact,
    *,
    mode: Labelling,
    settings: Views,
    epochs: int,
    batch_size: int = 256,
    encoded: str = "fp16",
    seed: int = 0,
    device: str = "auto",
    workers: Workers | None = None,
    reporter: Reporter | None = None,
) -> Bank:
    """The bank of a set, from the cache or made now; raises `UserError` for an unknown encoding."""
    spec = teacher.spec
    assert isinstance(spec, TeacherSpec)
    wanted = BankSpec(
        set_digest=ds.digest(),
        images=ds.decoded_count,
        image_size=(ds.images.shape[2], ds.images.shape[3]),
        classes=len(ds.classes),
        teacher=spec,
        mode=mode,
        views=settings,
        epochs=epochs,
        batch_size=batch_size,
        encoding=encoded,
        seed=seed,
    )
    inputs = BankInputs(data, teacher, device)
    return Bank(artefacts.get(wanted, resources=inputs, workers=workers, reporter=reporter))


def opened_bank(folder: Path) -> Bank:
    """The bank in a folder, which may come from elsewhere; raises `UserError` where there is none."""
    return Bank(artefacts.opened(folder, BankSpec))
