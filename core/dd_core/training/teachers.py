"""Teachers as artefacts: networks trained on the real images, from which images are recovered, or which label views.

SRe2L (Yin et al. 2023) calls this stage *squeeze*: information about the images goes into the weights, and into the
running mean and variance of each batch norm's inputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from dd_core import networks
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Tensors
from dd_core.distilled import IMAGENET
from dd_core.errors import UserError
from dd_core.images import DecodesFiles, InputForm, Source, called
from dd_core.networks.origins import PUBLISHED
from dd_core.recipe import Labelling, Recipe
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import ranks
from dd_core.system.ranks import Rank
from dd_core.training.feature_teacher_config import FeatureTeacherConfig
from dd_core.training.initial import load_weights
from dd_core.training.kept_weights import kept_spec, load_kept, require_kept
from dd_core.training.lessons import RealLessons
from dd_core.training.loop import Loop
from dd_core.training.predicting import accuracy
from dd_core.training.settings import Settings
from dd_core.training.teacher_config import IMAGES_OF_A_PROCESS, TeacherConfig
from dd_core.training.viewing import AskedTeacher, viewed, viewed_in_files

SAVE_SECONDS = 30.0  # least time between two saved states of an unfinished teacher


class TeacherSpec(ArtefactSpec):
    """A teacher of images (C, H, W).

    If the teacher's views are crops, they are cut from the source's stored pixels: for images in memory from images of
    `image_shape`, for a folder that streams from each file's image at its own size (`native`). So a folder has one
    teacher when it is in memory and another when it streams, though its fingerprint is the same.
    """

    kind: ClassVar[str] = "teacher"
    verb: ClassVar[str] = "training"
    noun: ClassVar[str] = "teacher"

    source: str = Field(description="fingerprint of the real images")
    source_name: str = Field(description="name of the real images; images of digits are not mirrored")
    image_shape: tuple[int, int, int] = Field(description="channels, height and width of the real images")
    classes: int = Field(description="number of classes of the real images")
    teacher: TeacherConfig = Field(description="how the teacher is trained")
    native: bool = Field(
        default=False,
        exclude_if=lambda native: not native,
        description="whether crops are cut from the images of files at their own size, before resizing to image_shape",
    )

    @staticmethod
    def of(source: Source, teacher: TeacherConfig) -> TeacherSpec:
        """The spec of a source's teacher; `teacher` names its network. Raises `UserError` for a file not yet kept."""
        assert teacher.network is not None
        require_kept(teacher.weights_file, option="teacher.weights")
        return TeacherSpec(
            source=source.fingerprint(),
            source_name=source.name,
            image_shape=source.image_shape,
            classes=len(source.classes),
            teacher=teacher,
            native=teacher.views.crop is not None and isinstance(source, DecodesFiles),
        )

    @property
    def network(self) -> str:
        """The name of the teacher's network."""
        assert self.teacher.network is not None
        return self.teacher.network

    def sources(self) -> dict[str, str]:
        """The real images."""
        return {self.source: self.source_name}

    def needs(self) -> dict[str, ArtefactSpec]:
        """The weights that training begins with, where they came in a file."""
        return kept_spec(self.teacher.weights)

    def cost(self, resources: Any, parts: int) -> str:
        """The network and the amount of training, as text."""
        del parts
        images = len(resources.sources[self.source])
        return f"{self.network}, {self.teacher.epochs} epochs: {self.teacher.epochs * images:,} image-passes"

    def outcome(self, made: Artefact) -> str:
        """The teacher's accuracy on its training images, as text."""
        facts = made.part(0)[1]
        return f"the teacher labels {100 * facts['accuracy']:.1f} % of its training images rightly"

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Train the teacher, and save its state every `SAVE_SECONDS`.

        Raises `Diverged`; `UserError` where the teacher learns from files and the images are in memory, and where its
        processes have too few images or GPUs; and `OutOfResources` where a process is lost.
        """
        del index
        source, device = resources.sources[self.source], devices.resolve(resources.device)
        self._require_files(source)
        self._require_parts(len(source))
        model = self.fresh(resources.artefacts.get("weights"))
        form = form_of(source, self.teacher, model)
        training = _Training(self, model, source, form, progress, SAVE_SECONDS)
        loss = training.run(device) if self.teacher.epochs else None
        facts = {"loss": loss, "accuracy": accuracy(model, source, form, device=device)}
        weights = {name: value.numpy() for name, value in model.cpu().state_dict().items()}
        tensors = {f"t{position}": value for position, value in enumerate(weights.values())}
        return tensors, {"names": list(weights), "mean": form.mean, "std": form.std, **facts}

    def _require_files(self, source: Source) -> None:
        if self.native and not isinstance(source, DecodesFiles):
            raise UserError(
                f"the teacher learns from crops of image files at their own size, and {called(source)} is in memory; "
                "load it by datasets.load(..., memory_limit=0), which leaves it on disk"
            )

    def _require_parts(self, images: int) -> None:
        """Raise `UserError` where the last mini-batch of an epoch has too few images for each process."""
        teacher = self.teacher
        last, needed = images % teacher.batch_size or teacher.batch_size, IMAGES_OF_A_PROCESS * teacher.processes
        if teacher.processes > 1 and last < needed:
            raise UserError(
                f"teacher.batch_size: the last mini-batch of an epoch has {last} of {images} images, and "
                f"{teacher.processes} processes need {IMAGES_OF_A_PROCESS} each; choose another size"
            )

    def fresh(self, kept: Artefact | None = None) -> nn.Module:
        """The network before its first epoch, with `kept` weights if given.

        Raises `UserError` for published weights that cannot be loaded or, without training, have other classes, and for
        kept weights of another network.
        """
        channels, height, width = self.image_shape
        model = networks.build(
            self.network,
            in_channels=channels,
            classes=self.classes,
            image_size=(height, width),
            seed=Streams(self.teacher.seed).child("teacher").seed,
            pretrained=self.teacher.weights == PUBLISHED,
        )
        if kept is not None:
            load_kept(model, kept)
        elif self.teacher.epochs == 0 and (published := _published_classes(model)) not in (None, self.classes):
            raise UserError(
                f"teacher.epochs: the published weights of '{self.network}' are for {published} classes, and there are "
                f"{self.classes} here; train it for some epochs"
            )
        return model

    def loop(
        self, model: nn.Module, source: Source, form: InputForm, *, device: torch.device, rank: Rank | None = None
    ) -> Loop:
        """The training loop at epoch 0; `rank`: this process, where several train the teacher together."""
        teacher = self.teacher
        streams = Streams(teacher.seed).child("teacher")
        decoders = source.decoders // teacher.processes if isinstance(source, DecodesFiles) else 0
        real, views = RealLessons(source, form, decoders=decoders), teacher.views.for_source(self.source_name)
        lessons = (viewed_in_files if self.native else viewed)(real, views, streams)
        settings = Settings(
            learning_rate=teacher.learning_rate,
            epochs=teacher.epochs,
            batch_size=teacher.batch_size,
            momentum=teacher.momentum,
            weight_decay=teacher.weight_decay,
            schedule="cosine",
            warmup=teacher.warmup,
            loss_called="teacher's training loss",
        )
        return Loop(model, lessons, settings, streams=streams, device=device, rank=rank)


class _Training(NamedTuple):
    """The inputs of a teacher's training, which are sent to each of its processes."""

    spec: TeacherSpec
    model: nn.Module
    source: Source
    form: InputForm
    progress: Progress
    save_seconds: float

    def run(self, device: torch.device) -> float:
        """Train the model in place, going on from a saved state; returns the mean loss of the last epoch."""
        processes = self.spec.teacher.processes
        if processes == 1:
            return self.trained(device)
        weights, loss = ranks.launched(_trained_together, self, count=processes, device=device)
        self.model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        return loss

    def trained(self, device: torch.device, rank: Rank | None = None) -> float:
        """Train in this process, alone or as one of several, of which the first saves the state; the mean loss."""
        loop = self.spec.loop(self.model, self.source, self.form, device=device, rank=rank)
        if (state := self.progress.load()) is not None:
            loop.load_state_dict(state)
        saved = time.monotonic()
        while loop.done < self.spec.teacher.epochs:
            loop.epoch()
            if time.monotonic() - saved >= self.save_seconds and (rank is None or rank.index == 0):
                self.progress.save(loop.state_dict())
                saved = time.monotonic()
        return loop.mean_loss


def _trained_together(rank: Rank, training: _Training) -> tuple[dict[str, np.ndarray], float]:
    """The weights, with the running statistics of the first process, and the mean loss of the last epoch.

    On GPUs batch norms normalise by the whole mini-batch; on the CPU, where torch cannot do that, each process by its
    own part.
    """
    if rank.device.type != "cpu":
        training = training._replace(model=networks.synchronised(training.model))
    loss = training.trained(rank.device, rank)
    return {name: value.cpu().numpy() for name, value in training.model.state_dict().items()}, loss


def _published_classes(network: nn.Module) -> int | None:
    """How many classes the published weights of a network have; None where the library does not say."""
    config: Mapping[str, Any] = getattr(network, "pretrained_cfg", {"num_classes": 1000})
    return config.get("num_classes")


def teacher_for(recipe: Recipe, teacher: TeacherConfig) -> TeacherConfig:
    """The teacher with its network filled in: its own, or else the recipe's."""
    return teacher.model_copy(update={"network": teacher.network or recipe.network})


def form_of(source: Source, teacher: TeacherConfig | FeatureTeacherConfig, network: nn.Module) -> InputForm:
    """The input form of a teacher, and of a set that is made with it, for the images of a source."""
    if teacher.weights == PUBLISHED:
        config: Mapping[str, Any] = getattr(
            network, "pretrained_cfg", {}
        )  # timm's networks have one; torchvision's take ImageNet's statistics
        mean, std = config.get("mean", IMAGENET[0]), config.get("std", IMAGENET[1])
        return InputForm(tuple(mean), tuple(std))
    return InputForm(*IMAGENET) if teacher.statistics == "imagenet" else InputForm.of(source)


def network_of(teacher: Artefact) -> nn.Module:
    """The trained network of a `TeacherSpec` on the CPU, in evaluation mode, its weights fixed."""
    spec = teacher.spec
    assert isinstance(spec, TeacherSpec)
    channels, height, width = spec.image_shape
    model = networks.build(spec.network, in_channels=channels, classes=spec.classes, image_size=(height, width), seed=0)
    return load_weights(model, teacher, 0).eval().requires_grad_(False)


def asked(teacher: Artefact, *, mode: Labelling) -> AskedTeacher:
    """The teacher, ready to label views."""
    return AskedTeacher(network_of(teacher), mode=mode)


def form_in(teacher: Artefact) -> InputForm:
    """The input form that a teacher was trained with."""
    facts = teacher.part(0)[1]
    return InputForm(tuple(facts["mean"]), tuple(facts["std"]))
