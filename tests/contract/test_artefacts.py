"""The conformance kit over every kind of artefact but decoded folders, whose tests are under unit/folders."""

from __future__ import annotations

from dd_core import zca
from dd_core.methods.sre2l.config import RecoverConfig
from dd_core.methods.sre2l.recovery import RecoverySpec
from dd_core.methods.trajectory_matching.expert_training import Sharpness, Training
from dd_core.methods.trajectory_matching.experts import ExpertsSpec
from dd_core.recipe import Pretraining, Recipe, StartingPool
from dd_core.testing import ArtefactConformance, blobs
from dd_core.training.mosaic_config import MosaicConfig
from dd_core.training.mosaics import MosaicSpec
from dd_core.training.starts import spec_of
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec

SOURCE = blobs()


class TestWhitening(ArtefactConformance):
    spec = zca.spec_of(SOURCE)
    sources = (SOURCE,)


class TestStartingWeights(ArtefactConformance):
    spec = spec_of(Recipe(network="convnet-1-w4"), (1, 8, 8), 3, StartingPool(distribution="xavier", count=2))


class TestPretrainedStartingWeights(ArtefactConformance):
    pool = StartingPool(
        distribution="default",
        count=2,
        pretraining=Pretraining(source=SOURCE.fingerprint(), name=SOURCE.name, epochs=1, batch_size=12),
    )
    spec = spec_of(Recipe(network="convnet-1-w4"), (1, 8, 8), 3, pool)
    sources = (SOURCE,)


class TestWhitenedFlatExperts(ArtefactConformance):
    spec = ExpertsSpec(
        source=SOURCE.fingerprint(),
        network="convnet-1-w4",
        image_shape=SOURCE.image_shape,
        classes=3,
        count=2,
        zca=True,
        training=Training(epochs=2, batch_size=12, augmentation="color_crop", sharpness=Sharpness()),
    )
    sources = (SOURCE,)


TEACHER = TeacherSpec.of(SOURCE, TeacherConfig(network="convnet-1-w4-batchnorm", epochs=1, batch_size=12))


class TestTeacher(ArtefactConformance):
    spec = TEACHER
    sources = (SOURCE,)


class TestRecovery(ArtefactConformance):
    spec = RecoverySpec(
        teacher=TEACHER, recover=RecoverConfig(iterations=2, batch_size=4, initial="real"), counts=(2, 1, 3)
    )
    sources = (SOURCE,)


class TestMosaics(ArtefactConformance):
    spec = MosaicSpec(teacher=TEACHER, mosaic=MosaicConfig(images=8, crops=2), counts=(2, 1, 2))
    sources = (SOURCE,)
