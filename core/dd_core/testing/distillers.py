"""The conformance kit of methods: tests that every method must pass, ours and other packages'.

    from dd_core.testing import DistillerConformance

    class TestMine(DistillerConformance):
        config = MyMethod(steps=3)
        diverging = MyMethod(steps=3, lr_img=1e30)      # settings that diverge; needed if there are steps

Needs pytest. The sources are small and made here; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from dd_core import store
from dd_core.config import canonical, decode
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import Context, Distiller, MethodConfig
from dd_core.errors import Diverged, UserError
from dd_core.images import LabelledImages
from dd_core.methods import decode_method
from dd_core.runner import RunOptions, distill
from dd_core.streams import generator
from dd_core.system import surroundings
from dd_core.system.device import resolve

CPU = RunOptions(device="cpu")  # where equal bytes are promised


@surroundings.own()
def blobs(
    *, classes: int = 3, per_class: int = 12, channels: int = 1, side: int = 8, labelled: bool = True
) -> LabelledImages:
    """A source whose classes are bright squares in different places, with noise; named `blobs`."""
    labels = torch.arange(classes).repeat(per_class)
    noise = torch.randint(0, 64, (len(labels), channels, side, side), generator=generator(0, "blobs"))
    for row, label in enumerate(labels.tolist()):
        top, left = divmod(label * (side // 2), side)
        noise[row, :, top : top + side // 2, left : left + side // 2] += 160
    names = tuple(f"blob {index}" for index in range(classes))
    return LabelledImages(noise.to(torch.uint8), labels if labelled else None, names, "blobs")


class DistillerConformance:
    """Inherit, set `config`, and pytest runs the tests that every method has to pass."""

    config: ClassVar[MethodConfig]
    diverging: ClassVar[MethodConfig | None] = None
    needs_labels: ClassVar[bool] = True
    starts_from_real_images: ClassVar[bool] = True  # so that a class's real images are the most that can be made
    draws: ClassVar[bool] = True  # whether the seed changes the images

    @pytest.fixture(autouse=True)
    def _own_cache_and_one_thread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize(
        "size", [Size(ipc=2), Size(images=4), Size(counts=(3, 1, 2))], ids=["ipc", "images", "counts"]
    )
    def test_makes_a_set_of_the_size_and_shape_asked_for(self, channels: int, size: Size):
        source = blobs(channels=channels)
        ds = distill(self.config, source, size, options=CPU)
        assert ds.images.shape == (size.total(3), *source.image_shape)
        if self.needs_labels:
            assert ds.classes == source.classes
            assert ds.labels is not None
            assert np.bincount(ds.labels).tolist() == list(size.per_class(3))
            assert (np.diff(ds.labels) >= 0).all(), "rows must be in class-major order"

    def test_the_pixels_can_be_shown_and_fed(self):
        source = blobs()
        ds = distill(self.config, source, Size(ipc=1), options=CPU)
        inputs, raw = ds.inputs(), ds.decoded().raw()
        assert inputs.dtype == torch.float32
        assert torch.isfinite(inputs).all()
        mean, std = ds.manifest.pixels.mean[0], ds.manifest.pixels.std[0]
        if ds.whitening is None:
            assert np.allclose((raw - mean) / std, inputs.numpy(), atol=1e-4)
            assert (mean, std) == pytest.approx((source.channel_stats()[0][0], source.channel_stats()[1][0]))
        else:
            assert np.allclose(ds.whitening.apply(raw), inputs.numpy(), atol=1e-4)
            assert np.allclose(ds.whitening.offset, source.images.float().mean(0).flatten() / 255, atol=1e-6)
        real = ds.input_form()(source.images)
        assert real.mean().abs() < 1e-3, "real images are not centred on their way to a network"

    def test_the_manifest_says_what_made_the_set(self):
        source = blobs()
        made = distill(self.config, source, Size(ipc=1), seed=5, options=CPU).manifest.provenance
        assert made is not None
        assert (made.method, made.seed, made.size) == (self.config.name, 5, Size(ipc=1))
        assert (made.source, made.fingerprint, made.source_images) == ("blobs", source.fingerprint(), len(source))
        assert decode_method({"name": made.method, **made.config}) == self.config

    def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_images(self, tmp_path: Path):
        first, second = (distill(self.config, blobs(), Size(ipc=2), seed=seed, options=CPU) for seed in (0, 1))
        assert np.array_equal(first.images, second.images) != self.draws
        sums = [
            _sha256_of(distill(self.config, blobs(), Size(ipc=2), seed=seed, options=CPU), tmp_path / "set.safetensors")
            for seed in (0, 0, 1)
        ]
        assert sums[0] == sums[1] != sums[2]

    def test_a_set_survives_the_disk(self, tmp_path: Path):
        out = tmp_path / "set.safetensors"
        ds = distill(self.config, blobs(), Size(ipc=1), out=out, options=CPU)
        back = store.read_set(out)
        assert back.manifest == ds.manifest
        assert np.array_equal(back.images, ds.images)
        assert back.images.dtype == ds.images.dtype
        assert torch.equal(back.inputs(), ds.inputs())
        real = blobs().images
        assert torch.equal(back.input_form()(real), ds.input_form()(real))

    def test_a_state_goes_on_exactly_where_it_stopped(self, tmp_path: Path):
        whole, half = self._distiller(), self._distiller()
        for index in range(self.config.steps):
            whole.step(index)
        middle = self.config.steps // 2
        for index in range(middle):
            half.step(index)
        store.write_state(tmp_path / "state.safetensors", half.state_dict(), {})
        resumed = self._distiller()
        resumed.load_state_dict(store.read_state(tmp_path / "state.safetensors")[0])
        for index in range(middle, self.config.steps):
            resumed.step(index)
        assert np.array_equal(whole.export().images, resumed.export().images)
        assert _same(whole.state_dict(), resumed.state_dict())

    def test_torchs_global_generator_is_left_alone(self):
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        distill(self.config, blobs(), Size(ipc=1), options=CPU)
        assert torch.equal(torch.rand(3), expected)

    def test_the_source_is_left_alone(self):
        source = blobs()
        before = source.images.clone()
        distill(self.config, source, Size(ipc=1), options=CPU)
        assert torch.equal(source.images, before)

    def test_a_source_without_labels_is_refused(self):
        if not self.needs_labels:
            pytest.skip("a self-supervised method")
        with pytest.raises(UserError, match="has no labels"):
            distill(self.config, blobs(labelled=False), Size(ipc=1), options=CPU)

    def test_too_many_images_are_refused(self):
        if not self.starts_from_real_images:
            pytest.skip("the method can make any number of images")
        with pytest.raises(UserError, match="class 'blob 0' has 12 images, and 13 are asked for"):
            distill(self.config, blobs(), Size(ipc=13), options=CPU)

    def test_fewer_images_than_classes_are_refused(self):
        if not self.needs_labels:
            pytest.skip("a self-supervised method")
        with pytest.raises(UserError, match="2 images for 3 classes"):
            distill(self.config, blobs(), Size(images=2), options=CPU)

    def test_a_misspelt_option_is_named_with_the_right_spelling(self):
        with pytest.raises(UserError) as caught:
            decode_method({"name": self.config.name, "stepps": 3}, where="mine.toml")
        assert str(caught.value) == "mine.toml: method.stepps: unknown key; did you mean 'steps'?"

    def test_every_option_has_a_meaning_and_survives_json(self):
        assert self.config.summary, "`list methods` says what the method makes: give it a summary"
        for name, field in type(self.config).model_fields.items():
            assert field.description, f"option {name} has no description"
        again = decode(type(self.config), self.config.model_dump(mode="json"))
        assert again == self.config
        assert canonical(again) == canonical(self.config)

    def test_divergence_stops_before_the_update_and_keeps_the_checkpoint(self, tmp_path: Path):
        if self.config.steps == 0:
            pytest.skip("a method without steps updates nothing")
        assert self.diverging is not None, "set `diverging`: settings with which the method diverges"
        out = tmp_path / "set.safetensors"
        with pytest.raises(Diverged) as caught:
            distill(
                self.diverging, blobs(), Size(ipc=1), out=out, options=RunOptions(device="cpu", checkpoint_seconds=0.0)
            )
        assert "\n" not in str(caught.value)
        assert not out.exists()
        for path in (tmp_path / "set.run").glob("checkpoint-*"):
            assert _finite(store.read_state(path)[0])

    def test_a_step_that_diverges_leaves_a_finite_state(self):
        if self.config.steps == 0:
            pytest.skip("a method without steps updates nothing")
        assert self.diverging is not None, "set `diverging`: settings with which the method diverges"
        distiller = self._distiller(self.diverging)
        with pytest.raises(Diverged):
            _all_steps(distiller, self.diverging.steps)
        assert _finite(distiller.state_dict())

    def _distiller(self, config: MethodConfig | None = None) -> Distiller:
        source, config = blobs(), config or self.config
        return config.build(Context.gather(config, source, Size(ipc=2), seed=3, device=resolve("cpu")))


def _all_steps(distiller: Distiller, steps: int) -> None:
    for index in range(steps):
        distiller.step(index)


def _sha256_of(ds: DistilledSet, path: Path) -> str:
    return store.write_set(path, ds)


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return torch.equal(value, other)
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_same(value[key], other[key]) for key in value)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(_same(a, b) for a, b in zip(value, other, strict=True))
    return value == other


def _finite(state: Any) -> bool:
    if isinstance(state, torch.Tensor):
        return bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        return all(_finite(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return all(_finite(value) for value in state)
    return True
