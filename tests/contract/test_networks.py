"""The conformance kit over networks of each family that needs no extra."""

from __future__ import annotations

from dd_core.testing import NetworkConformance


class TestConvNet(NetworkConformance):
    name = "convnet-2-w16"


class TestConvNetWithBatchNorm(NetworkConformance):
    name = "convnet-1-w8-batchnorm"


class TestLeNet(NetworkConformance):
    name = "lenet"
    image_size = (16, 16)
