"""Means and deviations that other people's code normalises with, as they published them."""

from __future__ import annotations

import pytest
import torch

from dd_core.distilled import IMAGENET
from dd_core.evaluation.protocols.challenge import CHALLENGE
from dd_core.exchange import STATISTICS, pixels_like
from dd_core.images import LabelledImages
from dd_core.methods.trajectory_matching.experts import form_of

# MTT (utils.py) and DC, DM and DSA for CIFAR-10; MTT takes them for CIFAR-100 too, as SRe2L does
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
# DC, DM and DSA, and the evaluator of the ECCV-2024 challenge
CIFAR100 = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
# torchvision's weights, and with them everybody; the challenge's evaluator takes them for Tiny ImageNet
TORCHVISION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_challenge_normalises_cifar_100_and_tiny_imagenet_so():
    assert CHALLENGE == {(100, 3, 32, 32): CIFAR100, (200, 3, 64, 64): TORCHVISION}
    assert IMAGENET == TORCHVISION


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cifar10", CIFAR10), ("cifar100", CIFAR100), ("cifar100-mtt", CIFAR10), ("imagenet", TORCHVISION)],
)
def test_files_of_others_are_read_with_the_statistics_of_their_code(name: str, expected):
    assert STATISTICS[name][:2] == expected
    pixels = pixels_like(name)
    assert (pixels.mean, pixels.std) == expected


def test_every_published_name_is_here():
    assert set(STATISTICS) == {"cifar10", "cifar100", "cifar100-mtt", "imagenet"}


def test_experts_see_images_by_the_statistics_of_imagenet_where_asked():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    source = LabelledImages(images, torch.tensor([0]), ("a",), "one")
    seen = form_of(source, "imagenet")(images).flatten().tolist()
    assert seen == pytest.approx([(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225], rel=1e-5)
