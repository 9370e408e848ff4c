"""The conformance kit of protocols: tests that every protocol must pass, ours and other packages'.

    from dd_core.testing import ProtocolConformance

    class TestMine(ProtocolConformance):
        protocol = MyProtocol()

Needs pytest.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from dd_core import artefacts
from dd_core.artefacts import Resources
from dd_core.config import canonical, decode, plain
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.evaluation import EvaluationProtocol, evaluate
from dd_core.methods import decode_method
from dd_core.recipe import Recipe, StartingPool
from dd_core.runner import distill
from dd_core.streams import Streams
from dd_core.system.device import resolve
from dd_core.testing.distillers import CPU, blobs
from dd_core.training import training_data
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec


class ProtocolConformance:
    """Inherit, set `protocol`, and pytest runs ten tests on it, with short trainings of a small network."""

    protocol: ClassVar[EvaluationProtocol]
    teacher: ClassVar[TeacherConfig | None] = None  # a quick one, if the protocol needs a teacher

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))

    def test_it_says_what_it_is_on_one_line(self):
        for text in (self.protocol.name, self.protocol.description):
            assert text == text.strip() != ""
            assert "\n" not in text

    def test_it_has_no_state(self):
        again = copy.deepcopy(self.protocol)
        assert (type(again), vars(again)) == (type(self.protocol), {})

    def test_its_recipe_is_one_and_fits_the_source(self):
        recipe = self.protocol.recipe(Recipe(network="lenet", augmentation="auto"), source_name="digits")
        assert decode(Recipe, plain(recipe)) == recipe
        assert not {"auto", "flip"} & {*recipe.augmentation.split("_")}, "digits are not mirrored"
        assert self.protocol.recipe(recipe, source_name="digits") == recipe

    def test_its_settings_are_distinct_and_always_the_same(self):
        settings = self.protocol.settings(images=50)
        assert settings == self.protocol.settings(images=50)
        assert len({canonical(setting) for setting in settings}) == len(settings)
        for setting in settings:
            assert setting.keys() == settings[0].keys()
        assert bool(self.protocol.settings(images=1)) == bool(settings)

    def test_a_protocol_without_networks_refuses_them(self):
        if self.protocol.trains_networks:
            self.protocol.check(["lenet"], start=True)
            return
        for networks, start in ((["lenet"], False), ([], True)):
            with pytest.raises(UserError, match=f"protocol '{self.protocol.name}' trains no network"):
                self.protocol.check(networks, start=start)

    def test_preparing_a_set_keeps_its_images_and_classes(self):
        ds, source = self._set(), blobs()
        before = ds.images.copy()
        prepared = self.protocol.prepare(ds, train=source)
        assert (prepared.images.shape, prepared.classes) == (ds.images.shape, ds.classes)
        assert prepared.labels is not None
        assert np.array_equal(prepared.labels, np.asarray(ds.labels))
        assert np.array_equal(ds.images, before)

    def test_the_same_streams_train_the_same_and_the_score_is_a_fraction(self):
        first, second = (self._score() for _ in range(2))
        assert first == second
        assert 0 <= first <= 1

    def test_torchs_global_generator_is_left_alone(self):
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        self._score()
        assert torch.equal(torch.rand(3), expected)

    def test_an_evaluation_has_a_score_and_twins_and_can_be_repeated(self, tmp_path: Path):
        ds, source = self._set(), blobs()
        given: dict[str, Any] = {"train": source, "test": source, "nets": 2, "device": "cpu"}
        given |= {"protocol": self._quick(), "teacher": self.teacher}
        result = evaluate(ds, **given, keep=tmp_path / "scores")
        assert result.protocol == self.protocol.name
        assert result.trained_networks == self.protocol.trains_networks
        assert len(result.random_real.per_network) == 2
        assert (result.chosen is not None) == bool(self.protocol.settings(images=ds.decoded_count))
        assert evaluate(ds, **given) == result
        assert evaluate(ds, **given, keep=tmp_path / "scores") == result

    def test_a_set_for_one_network_is_refused_or_trained_from_there(self):
        weights = StartingPool(distribution="default", count=1)
        own = Recipe(network="lenet", initialisation="sha256:" + 64 * "0", weights=weights)
        if "initialisation" in self.protocol.changes:
            with pytest.raises(UserError, match=f"protocol '{self.protocol.name}' trains a"):
                self.protocol.recipe(own, source_name="digits")
            return
        recipe = self.protocol.recipe(own, source_name="digits")
        assert (recipe.network, recipe.initialisation, recipe.weights) == ("lenet", own.initialisation, weights)

    def _quick(self) -> EvaluationProtocol:
        """The protocol, with two epochs of a small network, and at most two values of each setting of its grid."""
        kind = type(self.protocol)
        changes = {**kind.changes, "network": "convnet-1-w4", "epochs": 2}
        grid = {name: values[:2] for name, values in kind.grid.items()}
        return type(kind.__name__, (kind,), {"changes": changes, "grid": grid})()

    def _set(self) -> DistilledSet:
        source = blobs()
        return distill(decode_method({"name": "random"}), source, Size(ipc=2), options=CPU)

    def _score(self) -> float:
        source, protocol = blobs(), self._quick()
        ds = protocol.prepare(self._set(), train=source)
        recipe, settings = protocol.recipe(ds.manifest.recipe, source_name=source.name), protocol.settings(images=6)
        taught: dict[str, Any] = {}
        if self.teacher is not None:
            resources = Resources.of([source], device="cpu")
            taught["teacher"] = artefacts.get(TeacherSpec.of(source, self.teacher), resources=resources)
        model = protocol.fit(
            training_data(ds, recipe),
            recipe,
            setting=settings[0] if settings else {},
            streams=Streams(3),
            device=resolve("cpu"),
            **taught,
        )
        return protocol.score(model, source, ds.input_form(), device=resolve("cpu"))
