"""The conformance kit over every method of the table."""

from __future__ import annotations

from typing import ClassVar

from dd_core import methods
from dd_core.methods import method
from dd_core.testing import DistillerConformance

SMALL = {"network": "convnet-2-w16"}


class TestAverage(DistillerConformance):
    config = method("average")


class TestDatasetDistillation(DistillerConformance):
    config = method("dataset-distillation", steps=4, epochs=2, batch_real=16, recipe=SMALL)
    diverging = method("dataset-distillation", steps=4, epochs=3, batch_real=16, lr_inner=1e30, recipe=SMALL)
    starts_from_real_images = False


class TestDatasetDistillationOfAPretrainedPool(DistillerConformance):
    config = method(
        "dataset-distillation",
        steps=4,
        epochs=2,
        batch_real=16,
        start="random-pretrained",
        pool=2,
        pretraining={"epochs": 1, "batch_size": 12},
        attack=("blob 2", "blob 0"),
        clip=1.0,
        recipe=SMALL,
    )
    diverging = method(
        "dataset-distillation", steps=4, epochs=3, batch_real=16, start="fixed", lr_inner=1e30, recipe=SMALL
    )
    starts_from_real_images = False


class TestDistributionMatching(DistillerConformance):
    config = method("dm", steps=4, batch_real=8, recipe=SMALL)
    diverging = method("dm", steps=6, batch_real=8, lr_img=1e30, recipe=SMALL)


class TestDistributionMatchingOfTiles(DistillerConformance):
    config = method("dm", steps=4, batch_real=8, formation=2, clamp=True, recipe=SMALL)
    diverging = method("dm", steps=6, batch_real=8, lr_img=1e30, formation=2, recipe=SMALL)


class TestGradientMatching(DistillerConformance):
    config = method("dc", steps=3, outer=2, inner=2, batch_real=8, recipe=SMALL)
    diverging = method("dc", steps=6, outer=2, inner=2, batch_real=8, lr_net=1e30, recipe=SMALL)
    starts_from_real_images = False


class TestSiameseAugmentation(DistillerConformance):
    config = method("dsa", steps=3, outer=2, inner=1, batch_real=8, formation=2, recipe=SMALL)
    # a network that learned from such pixels would notice for itself
    diverging = method("dsa", steps=6, outer=2, inner=0, batch_real=8, lr_img=1e30, recipe=SMALL)


class TestHerding(DistillerConformance):
    config = method("herding")
    draws = False


class TestHerdingOfNetworkFeatures(DistillerConformance):
    config = method("herding", features="random-network", recipe=SMALL)


class TestKMeans(DistillerConformance):
    config = method("k-means")


class TestTrajectoryMatching(DistillerConformance):
    small: ClassVar = {
        "syn_steps": 3,
        "experts": 2,
        "expert_epochs": 1,
        "training": {"batch_size": 12},
        "recipe": SMALL,
    }
    config = method("mtt", steps=4, batch_syn=4, **small)
    diverging = method("mtt", steps=6, **{**small, "lr_img": 1e30})


class TestFlatTrajectoryMatching(DistillerConformance):
    small: ClassVar = {
        "syn_steps": 3,
        "experts": 2,
        "expert_epochs": 1,
        "training": {"batch_size": 12, "sharpness": {"alpha": 1.0}},
        "recipe": SMALL,
    }
    config = method("ftd", steps=4, **small)
    diverging = method("ftd", steps=6, lr_img=1e30, **small)


class TestDifficultyAligned(DistillerConformance):
    small: ClassVar = {
        "syn_steps": 3,
        "experts": 2,
        "expert_epochs": 1,
        "range_growth": 2,
        "training": {"batch_size": 12, "epochs": 11},
        "recipe": SMALL,
    }
    config = method("datm", steps=4, **small)
    # with the threshold, a set that is far off stays where it is
    diverging = method("datm", steps=6, lr_img=1e30, threshold=None, lr_label=1e30, **small)


class TestHardLabelled(DistillerConformance):
    small: ClassVar = {
        "syn_steps": 3,
        "experts": 2,
        "expert_epochs": 1,
        "zca": True,
        "also": "gradients",
        "recipe": SMALL,
    }
    config = method("m-datm", steps=4, **small)
    diverging = method("m-datm", steps=6, lr_img=1e30, threshold=None, **small)


class TestTesla(DistillerConformance):
    small: ClassVar = {
        "syn_steps": 3,
        "experts": 2,
        "expert_epochs": 1,
        "training": {"batch_size": 12},
        "recipe": SMALL,
    }
    config = method("tesla", steps=4, **small)
    diverging = method("tesla", steps=6, lr_img=1e30, **small)


class TestOptimized(DistillerConformance):
    config = method("optimized", steps=4, networks=1, batch_real=16, recipe={**SMALL, "epochs": 3})
    diverging = method("optimized", steps=4, networks=1, batch_real=16, recipe={**SMALL, "learning_rate": 1e30})


class TestRandom(DistillerConformance):
    config = method("random")


def test_every_method_of_the_table_is_here():
    kits = [kit for kit in DistillerConformance.__subclasses__() if kit.__module__ == __name__]
    tested = {kit.config.name for kit in kits}
    assert tested == {*methods.METHODS}


class TestSRe2L(DistillerConformance):
    config = method(
        "sre2l",
        teacher={"network": "convnet-1-w8-batchnorm", "epochs": 2, "batch_size": 12},
        recover={"iterations": 3, "batch_size": 4, "crop": [0.5, 1.0], "flip": True},
        recipe=SMALL,
    )
    starts_from_real_images = False


class TestSRe2LFromRealImages(DistillerConformance):
    config = method(
        "sre2l",
        teacher={"epochs": 1, "batch_size": 12, "views": {"crop": [0.5, 1.0], "padding": 0}},
        recover={"iterations": 2, "initial": "real", "tv": 1e-3, "l2": 1e-3, "curriculum": 0.5, "crop": [0.5, 1.0]},
        recipe={"network": "convnet-1-w8-batchnorm"},
    )


KRR_ST = {
    "steps": 3,
    "batch_real": 10,
    "networks": 2,
    "online_steps": 2,
    "teacher": {"network": "convnet-1-w4-batchnorm", "epochs": 1, "batch_size": 12, "warmup": 0, "projector": [6, 5]},
    "recipe": {"network": "convnet-1-w8-batchnorm"},
}


class TestKRRST(DistillerConformance):
    config = method("krr-st", **KRR_ST)
    diverging = method("krr-st", **{**KRR_ST, "learning_rate": 1e30})
    needs_labels = False
    starts_from_real_images = False  # its size is of all images, and not of each class


UNROLLED = {"inner": "unrolled", "unrolled_steps": 2, "objective": "labels", "recipe": {"network": "convnet-1-w8"}}


class TestKRRSTLabelledAndUnrolled(DistillerConformance):
    config = method("krr-st", **{**KRR_ST, **UNROLLED, "initial": "noise"})
    diverging = method("krr-st", **{**KRR_ST, **UNROLLED, "learning_rate": 1e30})
    starts_from_real_images = False


class TestRDED(DistillerConformance):
    config = method(
        "rded",
        teacher={"network": "convnet-1-w8-batchnorm", "epochs": 1, "batch_size": 12},
        mosaic={"images": 12, "crops": 2},
        recipe=SMALL,
    )
