"""Every protocol passes the kit, and so does one of another package."""

from __future__ import annotations

from typing import Any, ClassVar

from dd_core.evaluation import EvaluationProtocol, protocols
from dd_core.testing import ProtocolConformance
from dd_core.training.teacher_config import TeacherConfig


class AdamProtocol(EvaluationProtocol):
    """A protocol of another package: AdamW at a rate that validation images choose."""

    name = "adam"
    description = "AdamW for 20 epochs; the rate is chosen on a tenth of the training images"
    changes: ClassVar[dict[str, Any]] = {"optimiser": "adamw", "epochs": 20, "steps": ()}
    grid: ClassVar[dict[str, Any]] = {"learning_rate": (0.01, 0.001)}


class TestAdam(ProtocolConformance):
    protocol = AdamProtocol()


class TestRecipe(ProtocolConformance):
    protocol = protocols.load("recipe")


class TestPlain300(ProtocolConformance):
    protocol = protocols.load("plain-300")


class TestDM1000(ProtocolConformance):
    protocol = protocols.load("dm-1000")


class TestMTT1000(ProtocolConformance):
    protocol = protocols.load("mtt-1000")


class TestDATMSoft(ProtocolConformance):
    protocol = protocols.load("datm-soft")


class TestChallenge2024(ProtocolConformance):
    protocol = protocols.load("challenge-2024")


class TestWangGrid(ProtocolConformance):
    protocol = protocols.load("wang-grid")


TEACHER = TeacherConfig(network="convnet-1-w4-batchnorm", epochs=1, batch_size=12)


class TestSRe2LFKD(ProtocolConformance):
    protocol = protocols.load("sre2l-fkd")
    teacher = TEACHER


class TestSRe2LKD(ProtocolConformance):
    protocol = protocols.load("sre2l-kd")
    teacher = TEACHER


class TestSRe2LCIFAR(ProtocolConformance):
    protocol = protocols.load("sre2l-cifar")
    teacher = TEACHER


class TestHard(ProtocolConformance):
    protocol = protocols.load("hard")


class TestNearestNeighbours(ProtocolConformance):
    protocol = protocols.load("knn")


def test_every_protocol_of_the_table_is_tested_here():
    tested = {kit.protocol.name for kit in ProtocolConformance.__subclasses__()}
    assert {*protocols.PROTOCOLS} <= tested
