"""Data-free distillation: a student learns a classifier's outputs on a set's images, not on the classifier's data.

Table 4 of KRR-ST (Lee et al. 2024): the set's images are not from the task of teacher and student. The published code
of KRR-ST leaves student and teacher in training mode, so that batch norms normalise by the statistics of each
mini-batch, even of test images; here the teacher labels in evaluation mode, and the student is returned in it.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from dd_apps.transfer.pretraining import Say, safe_batch_size
from dd_core import augment
from dd_core.augment.names import Strategy, resolve_strategy
from dd_core.config import Config
from dd_core.distilled import DistilledSet
from dd_core.errors import Diverged, UserError
from dd_core.images import InputForm
from dd_core.networks.own import Network, built, name_of, outputs_for
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.training import Loop, Settings


class DataFree(Config):
    """Settings by which a student learns a teacher's outputs; defaults are KRR-ST's."""

    images: Literal["set", "noise"] = Field(
        default="set",
        description="inputs of teacher and student: set, augmented images of the set; noise, Gaussian noise of mean 0 "
        "and variance 1, drawn anew for each mini-batch",
    )
    epochs: int = Field(default=1000, ge=1, description="passes over the images (KRR-ST: 1,000)")
    batch_size: int = Field(default=512, ge=1, description="images in a mini-batch (KRR-ST: 512)")
    learning_rate: float = Field(
        default=1e-4,
        gt=0,
        description="initial learning rate of AdamW, with a cosine schedule (KRR-ST: 1e-4; 1e-3 for noise)",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of AdamW")
    augmentation: Strategy = Field(
        default="auto", description="DSA strategy of the set's images, before the teacher sees them; auto: all kinds"
    )
    loss: Literal["cross-entropy", "kl"] = Field(
        default="cross-entropy", description="loss of the student against the teacher: cross-entropy, or KL divergence"
    )
    temperature: float = Field(default=1.0, gt=0, description="temperature of both networks' logits (KRR-ST: 1)")


@surroundings.own()
def teach_student(
    student: Network,
    teacher: nn.Module,
    ds: DistilledSet,
    *,
    form: InputForm | None = None,
    settings: DataFree | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Say | None = None,
) -> nn.Module:
    """A student, in evaluation mode, that learned the teacher's outputs on the images of `ds` alone.

    student: a backbone as for `pretrain`; a module starts from its own weights. teacher: is not changed. form: the
    normalisation of the teacher's own images, by which the set's images are normalised too; None: the set's own. Labels
    and targets of the set are not used. Raises `UserError` for a form with a whitening and for images that a network
    cannot take, and `Diverged` where the loss or the teacher's probabilities are not finite.
    """
    chosen, where = settings or DataFree(), devices.resolve(device)
    channels, height, width = ds.images.shape[1:]
    shape = (channels, height, width)
    fixed = copy.deepcopy(teacher).to(where).eval().requires_grad_(False)
    outputs = outputs_for(fixed, shape)
    streams = Streams(seed).child("data-free")
    model = built(student, shape, outputs=outputs, seed=seed)
    inputs, told = _inputs(ds, form), say or (lambda _: None)
    size = safe_batch_size(len(inputs), chosen.batch_size, model, name=name_of(student), say=told)
    made = ds.manifest.provenance
    strategy = resolve_strategy(chosen.augmentation, "" if made is None else made.source)
    lessons = AskedViews(inputs, fixed, outputs, chosen, strategy=strategy, streams=streams)
    Loop(model, lessons, _settings(chosen, size), streams=streams, device=where).run()
    return model.eval()


def _inputs(ds: DistilledSet, form: InputForm | None) -> Float[Tensor, "N C H W"]:
    if form is None:
        return ds.inputs()
    if form.whitening is not None:
        raise UserError("the teacher's images are whitened, but the set's are not; take a teacher without whitening")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (form.mean, form.std))
    return (torch.from_numpy(ds.decoded().raw()) - mean) / std


def _settings(chosen: DataFree, batch_size: int) -> Settings:
    return Settings(
        learning_rate=chosen.learning_rate,
        epochs=chosen.epochs,
        batch_size=batch_size,
        optimiser="adamw",
        weight_decay=chosen.weight_decay,
        schedule="cosine",
        loss=chosen.loss,
        temperature=chosen.temperature,
        loss_called="loss of the student",
        check_every=50,
    )


class AskedViews:
    """Views of images, or noise in place of images, with the class probabilities that a classifier gives them."""

    labels = None

    def __init__(
        self,
        inputs: Float[Tensor, "N C H W"],
        teacher: nn.Module,
        outputs: int,
        settings: DataFree,
        *,
        strategy: str,
        streams: Streams,
    ) -> None:
        self.inputs, self.teacher, self.outputs, self.settings = inputs, teacher, outputs, settings
        self.strategy, self.streams = strategy, streams
        self.image_shape = (inputs.shape[1], inputs.shape[2], inputs.shape[3])

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> AskedViews:
        """The same views, with batches on another device."""
        inputs, teacher = self.inputs.to(device), self.teacher.to(device)
        return AskedViews(inputs, teacher, self.outputs, self.settings, strategy=self.strategy, streams=self.streams)

    @torch.no_grad()
    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Views of the images `rows` (or noise), and softmax(z / T) of the teacher's logits z; raises `Diverged`."""
        shown = self._shown(rows, self.streams.child("views", epoch).generator("batch", index))
        probabilities = (self.teacher(shown) / self.settings.temperature).softmax(1)
        if not torch.isfinite(probabilities).all():
            raise Diverged("the teacher's class probabilities are not finite")
        return shown, probabilities

    def _shown(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        if self.settings.images == "noise":
            return torch.randn(len(rows), *self.image_shape, generator=draw).to(self.inputs.device)
        images = self.inputs[rows.to(self.inputs.device)]
        return images if self.strategy == "none" else augment.dsa(images, self.strategy, generator=draw)
