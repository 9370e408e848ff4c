"""The conformance kit of networks.

from dd_core.testing import NetworkConformance

class TestMine(NetworkConformance):
    name = "my-network"                     # as a user types it: an entry point in the group `dd_core.networks`
"""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch

from dd_core import networks
from dd_core.images import InputForm
from dd_core.networks import names
from dd_core.recipe import Recipe
from dd_core.selection import real_set
from dd_core.streams import Streams
from dd_core.testing.distillers import blobs
from dd_core.training import accuracy, fit, training_data

CPU = torch.device("cpu")


class NetworkConformance:
    """Inherit, set `name`, and pytest runs the tests that every network has to pass."""

    name: ClassVar[str]
    image_size: ClassVar[tuple[int, int]] = (8, 8)  # a size that the network takes

    def _network(self, *, channels: int = 1, classes: int = 3, seed: int = 0) -> torch.nn.Module:
        return networks.build(self.name, in_channels=channels, classes=classes, image_size=self.image_size, seed=seed)

    def _images(self, *, count: int = 4, channels: int = 1) -> torch.Tensor:
        return torch.randn(count, channels, *self.image_size, generator=torch.Generator().manual_seed(0))

    def test_the_name_is_one_that_a_user_can_type(self):
        assert names.family(self.name) in names.FAMILIES

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("classes", [2, 5])
    def test_an_image_has_a_logit_for_each_class(self, channels: int, classes: int):
        logits = self._network(channels=channels, classes=classes).eval()(self._images(channels=channels))
        assert logits.shape == (4, classes)
        assert logits.isfinite().all()

    def test_equal_seeds_give_equal_weights_and_others_give_others(self):
        first, again, other = (self._network(seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_torchs_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        self._network()
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_network_is_built_in_training_mode(self):
        assert self._network().training

    def test_the_gradient_reaches_every_weight_and_the_pixels(self):
        network, images = self._network(), self._images().requires_grad_()
        network(images).square().sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
        assert all(weight.grad is not None for weight in network.parameters())

    def test_features_are_what_the_last_layer_reads(self):
        features = networks.embed(self._network().eval(), self._images())
        assert features.ndim == 2
        assert len(features) == 4

    def test_a_copy_computes_the_same(self):
        network, images = self._network().eval(), self._images()
        assert torch.equal(copy.deepcopy(network)(images), network(images))

    def test_training_on_a_set_makes_it_better_than_chance(self):
        """Three classes of bright squares, told apart after thirty passes over twelve images of each."""
        source = blobs(side=self.image_size[0])
        rows = torch.cat([(source.labels == label).nonzero().flatten()[:4] for label in range(3)])
        recipe = Recipe(network=self.name, epochs=30, batch_size=6, schedule="constant")
        ds = real_set(source, source.take(rows), (4, 4, 4), recipe)
        model = fit(training_data(ds, recipe), self.name, recipe, streams=Streams(0), device=CPU)
        assert accuracy(model, source, InputForm.of(source), device=CPU) > 0.5
