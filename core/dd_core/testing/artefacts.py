"""The conformance kit of artefacts.

from dd_core.testing import ArtefactConformance

class TestMine(ArtefactConformance):
    spec = MySpec(source=blobs().fingerprint())     # with two parts at least, if it can have several
    sources = (blobs(),)                            # the real images that it is made from
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from dd_core import artefacts
from dd_core.artefacts import Artefact, ArtefactSpec, Resources
from dd_core.config import canonical, decode
from dd_core.errors import UserError
from dd_core.images import Source


class ArtefactConformance:
    """Inherit, set `spec` and `sources`, and pytest runs the tests that every artefact has to pass."""

    spec: ClassVar[ArtefactSpec]
    sources: ClassVar[Sequence[Source]] = ()

    def _get(self, cache: Path) -> Artefact:
        return artefacts.get(self.spec, resources=Resources.of(self.sources, device="cpu"), cache=cache)

    def test_its_kind_names_a_folder(self):
        assert re.fullmatch(r"[a-z][a-z0-9-]*", self.spec.kind)

    def test_a_spec_survives_json_and_a_copy_with_its_digest(self):
        assert decode(type(self.spec), json.loads(canonical(self.spec))).digest() == self.spec.digest()
        assert copy.deepcopy(self.spec).digest() == self.spec.digest()

    def test_the_images_that_it_names_are_those_that_it_is_made_from(self):
        assert {*self.spec.sources()} <= {source.fingerprint() for source in self.sources}

    def test_a_lack_of_images_is_told_in_one_line(self, tmp_path: Path):
        if not self.spec.sources():
            return
        with pytest.raises(UserError) as caught:
            artefacts.get(self.spec, resources=Resources({}, "cpu"), cache=tmp_path)
        assert "\n" not in str(caught.value)
        assert self.spec.kind in str(caught.value)

    def test_two_caches_get_the_same_bytes(self, tmp_path: Path):
        first, second = self._get(tmp_path / "first"), self._get(tmp_path / "second")
        assert first.content == second.content
        for (ours, facts), (theirs, their_facts) in zip(first, second, strict=True):
            assert facts == their_facts
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)

    def test_a_complete_artefact_is_found_and_not_made_again(self, tmp_path: Path):
        made = self._get(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in made.folder.glob("part-*")}
        again = artefacts.get(self.spec, cache=tmp_path)  # without images: there is nothing to make
        assert again.content == made.content
        assert {path: path.stat().st_mtime_ns for path in again.folder.glob("part-*")} == before

    def test_an_interrupted_making_goes_on_where_it_stopped(self, tmp_path: Path):
        made = self._get(tmp_path)
        *kept, lost = sorted(made.folder.glob("part-*"))
        before = {path: path.stat().st_mtime_ns for path in kept}
        lost.unlink()
        (made.folder / "complete.json").unlink()
        assert self._get(tmp_path).content == made.content
        assert {path: path.stat().st_mtime_ns for path in kept} == before

    def test_torchs_global_generator_and_threads_are_left_alone(self, tmp_path: Path):
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        self._get(tmp_path)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads
