"""Teachers that are trained without labels, and their features of images, which distillation uses as targets."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from dd_core import networks
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Tensors
from dd_core.errors import UserError, require_finite
from dd_core.images import InputForm, Source, called
from dd_core.networks.origins import PUBLISHED
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system.footprint import prediction_batch
from dd_core.training.feature_teacher_config import FeatureTeacherConfig
from dd_core.training.initial import load_weights
from dd_core.training.kept_weights import classes_in, kept_spec, load_kept, require_kept
from dd_core.training.teachers import SAVE_SECONDS, form_of
from dd_core.training.two_views import Learner

CLASSES, PUBLISHED_CLASSES = 2, 1000  # outputs of the last layer, which is not used
PART_IMAGES = 1 << 14  # images whose features are one part of an artefact


class Backbone(nn.Module):
    """A network without its last linear layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "n C H W"]) -> Float[Tensor, "n D"]:
        """The inputs of the network's last linear layer."""
        return networks.embed(self.network, images)


class FeatureTeacherSpec(ArtefactSpec):
    """A teacher of images (C, H, W) that is trained without labels."""

    kind: ClassVar[str] = "feature-teacher"
    verb: ClassVar[str] = "training"
    noun: ClassVar[str] = "teacher without labels"

    source: str = Field(description="fingerprint of the real images")
    source_name: str = Field(description="name of the real images; images of digits are not mirrored")
    image_shape: tuple[int, int, int] = Field(description="channels, height and width of the real images")
    teacher: FeatureTeacherConfig = Field(description="how the teacher is trained")

    @staticmethod
    def of(source: Source, teacher: FeatureTeacherConfig) -> FeatureTeacherSpec:
        """The spec of a source's teacher; `teacher` names its network.

        Raises `UserError` for weights in a file that is not yet kept, and for a single image to train on.
        """
        assert teacher.network is not None
        require_kept(teacher.weights_file, option="teacher.weights")
        if teacher.epochs and len(source) < 2:
            raise UserError(f"{called(source)} has one image; a teacher needs at least two to learn without labels")
        fingerprint, name, shape = source.fingerprint(), source.name, source.image_shape
        return FeatureTeacherSpec(source=fingerprint, source_name=name, image_shape=shape, teacher=teacher)

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
        """The network, the objective and the amount of training, as text."""
        del parts
        passes = 2 * self.teacher.epochs * len(resources.sources[self.source])
        return f"{self.network} by {self.teacher.objective}, {self.teacher.epochs} epochs: {passes:,} image-passes"

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Train the teacher, and save its state every `SAVE_SECONDS`; raises `Diverged`."""
        del index
        source, device = resources.sources[self.source], devices.resolve(resources.device)
        backbone = Backbone(self.fresh(resources.artefacts.get("weights")))
        form = form_of(source, self.teacher, backbone.network)
        width = width_of(backbone, self.image_shape)
        loss = None
        if self.teacher.epochs:
            learner = Learner(backbone, width, source, form, self.teacher, device=device)
            loss = _trained(learner, self.teacher.epochs, progress)
        weights = {name: value.cpu().numpy() for name, value in backbone.network.state_dict().items()}
        tensors = {f"t{position}": value for position, value in enumerate(weights.values())}
        facts = {"names": list(weights), "mean": form.mean, "std": form.std, "width": width, "loss": loss}
        return tensors, {**facts, "classes": self._classes(resources.artefacts.get("weights"))}

    def fresh(self, kept: Artefact | None = None) -> nn.Module:
        """The network before its first epoch, with `kept` weights if given; raises `UserError` for unfit weights."""
        network = self._built(self._classes(kept), pretrained=self.teacher.weights == PUBLISHED)
        if kept is not None:
            load_kept(network, kept)
        return network

    def _classes(self, kept: Artefact | None) -> int:
        """The outputs of the last layer: as many as in the given weights."""
        if kept is not None:
            return classes_in(kept, self._built(CLASSES)) or CLASSES
        return PUBLISHED_CLASSES if self.teacher.weights == PUBLISHED else CLASSES

    def _built(self, classes: int, *, pretrained: bool = False) -> nn.Module:
        channels, height, width = self.image_shape
        return networks.build(
            self.network,
            in_channels=channels,
            classes=classes,
            image_size=(height, width),
            seed=Streams(self.teacher.seed).child("feature-teacher").seed,
            pretrained=pretrained,
        )


class FeaturesSpec(ArtefactSpec):
    """A teacher's features (N, D) of all images of its source, in order; a part is a block of rows."""

    kind: ClassVar[str] = "features"
    verb: ClassVar[str] = "computing"
    noun: ClassVar[str] = "block of features"

    teacher: FeatureTeacherSpec = Field(description="the teacher")
    images: int = Field(description="number of real images")

    @staticmethod
    def of(source: Source, teacher: FeatureTeacherConfig) -> FeaturesSpec:
        """The spec of the features of a source, by the teacher that is trained on it."""
        return FeaturesSpec(teacher=FeatureTeacherSpec.of(source, teacher), images=len(source))

    def sources(self) -> dict[str, str]:
        """The real images."""
        return self.teacher.sources()

    def needs(self) -> dict[str, ArtefactSpec]:
        """The teacher."""
        return {"teacher": self.teacher}

    def parts(self) -> int:
        """The number of blocks of `PART_IMAGES` rows."""
        return math.ceil(self.images / PART_IMAGES)

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """The features of one block."""
        del progress
        source, device = resources.sources[self.teacher.source], devices.resolve(resources.device)
        teacher = resources.artefacts["teacher"]
        rows = torch.arange(index * PART_IMAGES, min((index + 1) * PART_IMAGES, self.images))
        features = features_of(backbone_of(teacher), source, form_of_teacher(teacher), rows=rows, device=device)
        require_finite(features=features.abs().sum().item())
        return {"features": features.numpy()}, {}


@torch.no_grad()
def features_of(
    backbone: nn.Module, source: Source, form: InputForm, *, rows: Tensor, device: torch.device
) -> Float[Tensor, "n D"]:
    """float32 features of the images `rows`, on the CPU; `backbone` stays in its mode, training or evaluation."""
    backbone = backbone.to(device)
    at_once = prediction_batch(lambda images: backbone(form(images)), source.image_shape, device, most=512)
    parts = [backbone(form(source.take(part).to(device))).float().cpu() for part in rows.split(at_once)]
    return torch.cat(parts)


def features_in(artefact: Artefact) -> Float[Tensor, "N D"]:
    """The features of a `FeaturesSpec`."""
    return torch.cat([torch.from_numpy(tensors["features"].copy()) for tensors, _ in artefact])


def backbone_of(teacher: Artefact) -> Backbone:
    """The backbone of a `FeatureTeacherSpec` on the CPU, in evaluation mode, its weights fixed."""
    spec = teacher.spec
    assert isinstance(spec, FeatureTeacherSpec)
    channels, height, width = spec.image_shape
    classes = teacher.part(0)[1]["classes"]
    network = networks.build(spec.network, in_channels=channels, classes=classes, image_size=(height, width), seed=0)
    backbone = Backbone(load_weights(network, teacher, 0)).eval()
    return backbone.requires_grad_(False)


def form_of_teacher(teacher: Artefact) -> InputForm:
    """The input form of a `FeatureTeacherSpec`'s teacher: the one that it was trained with."""
    facts = teacher.part(0)[1]
    return InputForm(tuple(facts["mean"]), tuple(facts["std"]))


@torch.no_grad()
def width_of(backbone: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """How many features (D) `backbone` gives for an image; raises `UserError` for outputs that are not (n, D)."""
    mode = backbone.training
    features = backbone.eval()(torch.zeros(2, *image_shape))
    backbone.train(mode)
    if features.ndim != 2:
        raise UserError(f"a backbone must give features (n, D), and this one gives {tuple(features.shape)}")
    return features.shape[1]


def _trained(learner: Learner, epochs: int, progress: Progress) -> float:
    """Train for all epochs, going on from a saved state; returns the mean loss of the last epoch."""
    if (state := progress.load()) is not None:
        learner.load_state_dict(state)
    saved = time.monotonic()
    while learner.done < epochs:
        learner.epoch()
        if time.monotonic() - saved >= SAVE_SECONDS:
            progress.save(learner.state_dict())
            saved = time.monotonic()
    return learner.loss
