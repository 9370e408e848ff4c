"""Fine-tuning: training goes on with all weights of a backbone and a fresh last layer for the target's classes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from dd_apps.transfer.labelled import check_target, labelled_rows
from dd_apps.transfer.pretraining import Say, safe_batch_size
from dd_apps.transfer.probes import described
from dd_apps.transfer.scores import TransferScore
from dd_apps.transfer.settings import FineTuning
from dd_apps.transfer.stepping import take_steps
from dd_core import augment
from dd_core.augment.names import MIRRORED
from dd_core.images import InputForm, Source
from dd_core.networks.own import name_of, with_outputs
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.system.progress import reporting
from dd_core.training import Loop, RealLessons, Settings, accuracy


@dataclass(frozen=True, eq=False)
class FineTuned:
    """The fine-tuned classifier, in evaluation mode, and its score on the test images."""

    model: nn.Module
    score: TransferScore

    @property
    def accuracy(self) -> float:
        """The accuracy of the score."""
        return self.score.accuracy


@surroundings.own()
def fine_tune(
    backbone: nn.Module,
    train: Source,
    test: Source,
    *,
    fraction: float = 1.0,
    form: InputForm | None = None,
    settings: FineTuning | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Say | None = None,
    progress: bool = False,
) -> FineTuned:
    """A copy of `backbone`, trained on `fraction` of the labels of `train` and scored after the last step.

    The labels, the new last layer, and the order and views of images are drawn by `seed`. form: normalisation of
    images, `ds.input_form()` of the set that the backbone learned; None: by the mean and std of `train`. settings: by
    default KRR-ST's. Raises `UserError` for images without labels, for a single class, and where `train` and `test`
    have different classes, and `Diverged`. `progress` shows a bar of the steps.
    """
    check_target(train, test)
    chosen, where = settings or FineTuning(), devices.resolve(device)
    form = form or InputForm.of(train)
    rows = labelled_rows(train, fraction, seed=seed)
    streams = Streams(seed).child("fine-tuning")
    model = with_outputs(copy.deepcopy(backbone), len(train.classes), seed=streams.seed)
    size = safe_batch_size(len(rows), chosen.batch_size, model, name=name_of(backbone), say=say or (lambda _: None))
    lessons = ShiftedLessons(train.subset(rows), form, streams, crop=chosen.crop)
    loop = Loop(model, lessons, _settings(chosen), streams=streams, device=where)
    with reporting(None, progress=progress).stage("steps", total=chosen.steps) as stage:
        take_steps(loop, batch_size=size, stage=stage)
    score = TransferScore(
        accuracy=accuracy(model, test, form, device=where),
        done=chosen.words,
        fraction=fraction,
        labels=len(rows),
        tested=len(test),
        classes=len(train.classes),
        seed=seed,
        **described(form),
    )
    return FineTuned(model.eval(), score)


def _settings(settings: FineTuning) -> Settings:
    return Settings(
        learning_rate=settings.learning_rate,
        epochs=settings.steps,
        batch_size=settings.batch_size,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        schedule="cosine",
        loss_called="loss of fine-tuning",
        check_every=100,
    )


class ShiftedLessons(RealLessons):
    """Labelled images, each shifted by up to `crop` pixels each way and filled with black, and mirrored half the time.

    A shift is a crop of the image's size from the image with a black margin. Digits and letters are not mirrored. The
    draws of a mini-batch follow from `epoch`, which counts steps here.
    """

    def __init__(
        self, source: Source, form: InputForm, streams: Streams, *, crop: int, device: torch.device | None = None
    ) -> None:
        super().__init__(source, form, device=device)
        self.streams, self.crop = streams, crop

    def to(self, device: torch.device) -> ShiftedLessons:
        """The same lessons, with batches on another device."""
        return ShiftedLessons(self.source, self.form, self.streams, crop=self.crop, device=device)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Shifted and mirrored images, normalised or whitened, with their labels."""
        del index
        draw = self.streams.generator("views", epoch)
        shifts = torch.randint(-self.crop, self.crop + 1, (len(rows), 2), generator=draw)
        mirrored = torch.rand(len(rows), generator=draw) < 0.5
        pixels = self.source.take(rows).to(self.device, non_blocking=True).float()
        images = augment.crop(pixels, shifts.to(self.device, non_blocking=True)).to(torch.uint8)
        if self.source.name not in MIRRORED:
            mirrored = mirrored.to(self.device, non_blocking=True)
            images = images.flip(3).where(mirrored[:, None, None, None], images)
        return self.form(images), self.labels[rows.to(self.device, non_blocking=True)]
