"""Lessons of views: crops of the images of other lessons, mirrored or mixed, with the images' targets or a teacher's.

`AskedTeacher` labels views during training; a bank has a teacher's logits from before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_core.augment import views
from dd_core.augment.view_config import Views
from dd_core.augment.views import Records
from dd_core.errors import UserError
from dd_core.networks import batch_norms
from dd_core.recipe import Labelling
from dd_core.streams import Streams
from dd_core.training.lessons import Foreseeing, Lessons, RealLessons, Shape
from dd_core.training.prefetching import Wanted

Draw = Callable[[int], Records]  # the records of all images in an epoch


@runtime_checkable
class Teacher(Protocol):
    """A labeller of views."""

    def to(self, device: torch.device) -> Teacher:
        """The same teacher with logits on `device`."""
        ...

    def logits(self, views: Float[Tensor, "n C H W"], rows: Int64[Tensor, " n"], *, epoch: int) -> Float[Tensor, "n K"]:
        """The teacher's logits for `views` of the images `rows` in an epoch."""
        ...


class ViewedLessons:
    """One view of each image of `lessons` in an epoch; `records` gives the views of an epoch.

    The target of a mix of two images is the mix of both targets, by the images' shares of the view.
    """

    def __init__(self, lessons: Lessons, records: Draw, *, mixes: bool) -> None:
        self._lessons, self._draw, self._mixes = lessons, records, mixes
        self._latest: tuple[int, Records] | None = None
        self.labels, self.image_shape, self.outputs = lessons.labels, lessons.image_shape, lessons.outputs
        self._black: Tensor | None = getattr(lessons, "black", None)

    def __len__(self) -> int:
        return len(self._lessons)

    def to(self, device: torch.device) -> ViewedLessons:
        """The same lessons with batches on `device`."""
        return ViewedLessons(self._lessons.to(device), self._draw, mixes=self._mixes)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """The epoch's views of the images `rows`, with their targets: class probabilities where views are mixed."""
        records = self._records(epoch)
        own = records.of(rows)
        shown, targets = self._shown(rows, own, epoch=epoch, index=index)
        if not self._mixes:
            return shown, targets
        other, other_targets = self._shown(own.partners, records.of(own.partners), epoch=epoch, index=index)
        shares = own.shares.to(shown, non_blocking=True)[:, None]
        return views.mix(shown, other, own), torch.lerp(self._soft(other_targets), self._soft(targets), shares)

    def ahead(self, batches: Iterable[Int64[Tensor, " _"]], *, epoch: int) -> AbstractContextManager[object]:
        """See `Foreseeing`; for mixed views, each batch's images are announced, then their partners."""
        if not isinstance(self._lessons, Foreseeing):
            return nullcontext()
        return self._lessons.ahead((rows for rows, _ in self._parts(batches, epoch)), epoch=epoch)

    def _parts(self, batches: Iterable[Tensor], epoch: int) -> Iterator[tuple[Tensor, Records]]:
        """The rows that each batch reads, with their records, in the order of reading."""
        for rows in batches:
            own = self._records(epoch).of(rows)
            yield rows, own
            if self._mixes:
                yield own.partners, self._records(epoch).of(own.partners)

    def _records(self, epoch: int) -> Records:
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self._draw(epoch))
        return self._latest[1]

    def _shown(self, rows: Tensor, records: Records, *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        images, targets = self._lessons.batch(rows, epoch=epoch, index=index)
        return views.crops(images, records.boxes, records.flips, black=self._black), targets

    def _soft(self, targets: Tensor) -> Tensor:
        return F.one_hot(targets, self.outputs).float() if targets.ndim == 1 else targets


class NativeLessons(ViewedLessons):
    """Views whose crops are cut from files' images at their own size, and then resized to `image_shape`.

    torchvision's RandomResizedCrop does the same: a small crop of a large photograph keeps its detail.
    """

    def __init__(self, lessons: RealLessons, records: Draw, *, mixes: bool) -> None:
        super().__init__(lessons, records, mixes=mixes)
        self._real = lessons

    def to(self, device: torch.device) -> NativeLessons:
        """The same lessons with batches on `device`."""
        return NativeLessons(self._real.to(device), self._draw, mixes=self._mixes)

    def ahead(self, batches: Iterable[Int64[Tensor, " _"]], *, epoch: int) -> AbstractContextManager[object]:
        """See `Foreseeing`; with decoder processes, views are decoded ahead."""
        parts = self._parts(batches, epoch)
        return self._real.views_ahead(Wanted(rows, records.boxes, records.flips) for rows, records in parts)

    def _shown(self, rows: Tensor, records: Records, *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        return self._real.views(rows, records.boxes, records.flips)


class TaughtLessons:
    """The images of `lessons` with a teacher's class probabilities as targets: softmax(logits / T)."""

    def __init__(self, lessons: Lessons, teacher: Teacher, *, temperature: float) -> None:
        self._lessons, self._teacher, self._temperature = lessons, teacher, temperature
        self.labels: Tensor | None = lessons.labels
        self.image_shape: Shape = lessons.image_shape
        self.outputs: int = lessons.outputs

    def __len__(self) -> int:
        return len(self._lessons)

    def to(self, device: torch.device) -> TaughtLessons:
        """The same lessons with batches on `device`."""
        return TaughtLessons(self._lessons.to(device), self._teacher.to(device), temperature=self._temperature)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images with the teacher's class probabilities."""
        images, _ = self._lessons.batch(rows, epoch=epoch, index=index)
        logits = self._teacher.logits(images, rows, epoch=epoch)
        return images, (logits / self._temperature).softmax(1)


class AskedTeacher:
    """A teacher that labels during training: a copy of a trained network.

    mode: `eval`, or `batch-stats`, in which batch norms normalise by the mini-batch, and leave their running statistics
    unchanged.
    """

    def __init__(self, network: nn.Module, *, mode: Labelling) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.mode = mode
        if mode == "batch-stats":
            for norm in batch_norms(self.network).values():
                norm.train()
                norm.momentum = 0.0  # leaves the running statistics unchanged

    def to(self, device: torch.device) -> AskedTeacher:
        """Move the network to `device`; returns this teacher."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def logits(self, views: Float[Tensor, "n C H W"], rows: Int64[Tensor, " n"], *, epoch: int) -> Float[Tensor, "n K"]:
        """The network's logits; raises `UserError` for a single image in mode `batch-stats`."""
        del rows, epoch
        if self.mode == "batch-stats" and len(views) == 1:
            raise UserError(
                "a teacher in mode batch-stats normalises by the mini-batch, and one has a single image; choose a "
                "batch size that leaves no image alone"
            )
        return self.network(views)


def viewed(lessons: Lessons, settings: Views, streams: Streams) -> ViewedLessons:
    """Lessons of views of `lessons` that are drawn anew in every epoch."""
    count, (_, height, width) = len(lessons), lessons.image_shape

    def draw(epoch: int) -> Records:
        generator = streams.generator("views", epoch)
        return views.draw(settings, count=count, image_size=(height, width), generator=generator)

    return ViewedLessons(lessons, draw, mixes=settings.mix != "none")


def viewed_in_files(lessons: RealLessons, settings: Views, streams: Streams) -> NativeLessons:
    """Lessons of crops, drawn anew in every epoch, of the files of `lessons` at the files' own size."""
    count, (_, height, width) = len(lessons), lessons.image_shape
    native_sizes = lessons.source.sizes(torch.arange(count))

    def draw(epoch: int) -> Records:
        generator = streams.generator("views", epoch)
        size = (height, width)
        return views.draw(settings, count=count, image_size=size, generator=generator, native_sizes=native_sizes)

    return NativeLessons(lessons, draw, mixes=settings.mix != "none")
