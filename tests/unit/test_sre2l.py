"""SRe2L: the statistics that are matched against a plain formula, the iteration against one by hand, and its parts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import nn

from dd_core import artefacts, networks, store, streams
from dd_core.artefacts import Artefact, Progress, Resources
from dd_core.distilled import IMAGENET, Size
from dd_core.errors import Diverged, UserError
from dd_core.images import InputForm, LabelledImages
from dd_core.methods import method, sre2l
from dd_core.methods.sre2l import recovery
from dd_core.methods.sre2l.config import RecoverConfig
from dd_core.methods.sre2l.recovery import RecoveryBatch, RecoverySpec, recovered
from dd_core.methods.sre2l.statistics import StatisticsMatching, distance
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams, generator
from dd_core.synthetic import mean_norm, total_variation
from dd_core.testing import blobs
from dd_core.training import accuracy
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec, form_in, network_of

CPU = torch.device("cpu")
FORM = InputForm((0.4,), (0.2,))
SMALL = TeacherConfig(network="convnet-2-w8-batchnorm", epochs=3, batch_size=12)


def normal(*shape: int, stream: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, stream))


def teacher() -> nn.Module:
    network = networks.build("convnet-2-w8-batchnorm", in_channels=1, classes=3, image_size=(8, 8), seed=5)
    network(normal(64, 1, 8, 8, stream="seen") * 3)
    return network.eval()


def batch(settings: RecoverConfig, *, network: nn.Module | None = None, count: int = 6) -> RecoveryBatch:
    first, labels = normal(count, 1, 8, 8, stream="first"), torch.arange(count) % 3
    return RecoveryBatch(network or teacher(), first, labels, FORM, settings, streams=Streams(1), device=CPU)


# --- statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (7, 3), (5, 3, 9)])
def test_the_distance_is_that_of_means_and_biased_variances(shape: tuple[int, ...]):
    x = normal(*shape).double().requires_grad_()
    mean, variance = normal(3, stream="mean").double(), normal(3, stream="variance").double().abs()
    value = distance(x, mean, variance)
    array, expected = x.detach().numpy().swapaxes(0, 1).reshape(3, -1), 0.0
    means = array.sum(1) / array.shape[1]
    variances = ((array - means[:, None]) ** 2).sum(1) / array.shape[1]
    expected = math.sqrt(((means - mean.numpy()) ** 2).sum()) + math.sqrt(((variances - variance.numpy()) ** 2).sum())
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda inputs: distance(inputs, mean, variance), (x,))


def test_every_batch_norms_input_is_looked_at_and_the_first_one_counts_more():
    network, x = teacher().double(), normal(4, 1, 8, 8).double()
    with StatisticsMatching(network, first=10.0) as matching:
        network(x)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 2
    expected, features = 0.0, x
    for module in network.features:  # type: ignore[union-attr]
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            factor = 10.0 if module is norms[0] else 1.0
            expected = expected + factor * distance(features, module.running_mean, module.running_var).item()
        features = module(features)
    assert matching.distance().item() == pytest.approx(expected, rel=1e-12)
    network(x)
    with StatisticsMatching(network, first=1.0) as other:
        network(x)
    assert other.distance().item() < expected, "outside of it nothing is looked at"


def test_total_variation_and_norm_are_those_of_a_loop():
    x = normal(2, 3, 5, 6).double()
    sums = [0.0] * 4
    for image in x.numpy():
        for channel in image:
            for i in range(5):
                for j in range(6):
                    for direction, (di, dj) in enumerate([(0, 1), (1, 0), (1, 1), (1, -1)]):
                        if i + di < 5 and 0 <= j + dj < 6:
                            sums[direction] += (channel[i + di, j + dj] - channel[i, j]) ** 2
    assert total_variation(x).item() == pytest.approx(sum(math.sqrt(value) for value in sums))
    norms = [math.sqrt((image**2).sum()) for image in x.numpy()]
    assert mean_norm(x).item() == pytest.approx(sum(norms) / 2)


def test_a_planted_teachers_statistics_are_met_within_a_percent():
    planted = nn.Sequential(norm := nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(3 * 16, 2)).eval()
    norm.running_mean, norm.running_var = torch.tensor([0.3, -0.2, 0.5]), torch.tensor([0.5, 0.8, 0.3])
    planted[2].weight.data.zero_()
    settings = RecoverConfig(iterations=400, r_bn=1.0, jitter=(0, 0), learning_rate=0.05)
    form = InputForm((0.5,) * 3, (0.2,) * 3)
    first = normal(8, 3, 4, 4, stream="first")
    images = RecoveryBatch(planted, first, torch.zeros(8).long(), form, settings, streams=Streams(0), device=CPU)
    while images.done < 400:
        images.step()
    pixels = images.pixels.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(pixels.mean(1), norm.running_mean, rtol=0.01, atol=0)
    torch.testing.assert_close(pixels.var(1, correction=0), norm.running_var, rtol=0.01, atol=0)


# --- an iteration -------------------------------------------------------------------------------------------------


def test_iterations_are_adams_on_the_loss_with_clamping_as_by_hand():
    settings = RecoverConfig(iterations=4, learning_rate=0.5, r_bn=0.3, first_bn=7.0, jitter=(0, 2), tv=0.01, l2=0.02)
    images, network = batch(settings), teacher()
    x, labels = normal(6, 1, 8, 8, stream="first"), torch.arange(6) % 3
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    moment, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(4):
        draw = Streams(1).generator("view", step)
        torch.rand((), generator=draw)
        shift = torch.randint(0, 3, (2,), generator=draw).tolist()
        x.requires_grad_()
        seen = torch.roll(x, shift, (2, 3))
        inputs: list[torch.Tensor] = []
        hooks = [norm.register_forward_hook(lambda _, given, __, kept=inputs: kept.append(given[0])) for norm in norms]
        loss = F.cross_entropy(network(seen), labels)
        for hook in hooks:
            hook.remove()
        for norm, given, factor in zip(norms, inputs, (7.0, 1.0), strict=True):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            means, variances = given.mean((0, 2, 3)), given.var((0, 2, 3), correction=0)
            loss = loss + 0.3 * factor * ((means - norm.running_mean).norm() + (variances - norm.running_var).norm())
        loss = loss + 0.01 * total_variation(seen) + 0.02 * mean_norm(seen)
        (gradient,) = torch.autograd.grad(loss, x)
        moment = 0.5 * moment + 0.5 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        rate = 0.5 * 0.5 * (1 + math.cos(math.pi * step / 4))
        update = (moment / (1 - 0.5 ** (step + 1))) / ((square / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        x = (x.detach() - rate * update).clamp(-0.4 / 0.2, 0.6 / 0.2)
        images.step()
        torch.testing.assert_close(images.pixels.detach(), x, rtol=1e-3, atol=1e-4)
    assert images.pixels.detach().max() == pytest.approx(3.0), "noise of white and beyond is clamped"
    assert [record["iteration"] for record in images.losses] == [0, 3]


def test_a_view_is_one_crop_resized_mirrored_and_rolled_for_all_images():
    images = batch(RecoverConfig(crop=(0.2, 0.3), flip=True, jitter=(1, 1)))
    x, mirrored = images.pixels.detach(), 0
    for images.done in range(12):
        seen = torch.roll(images.view(x), (-1, -1), (2, 3))
        draw = Streams(1).generator("view", images.done)
        box = recovery.views.draw_boxes(torch.tensor([[8, 8]]), scale=(0.2, 0.3), ratio=(0.75, 4 / 3), generator=draw)
        top, left, height, width = box[0].tolist()
        expected = F.interpolate(x[:, :, top : top + height, left : left + width], size=(8, 8), mode="bilinear")
        if torch.rand((), generator=draw) < 0.5:
            expected, mirrored = expected.flip(3), mirrored + 1
        torch.testing.assert_close(seen, expected)
    assert 0 < mirrored < 12


def test_the_curriculum_shrinks_the_smallest_crop_along_a_cosine():
    images = batch(RecoverConfig(iterations=100, crop=(0.2, 1.0), curriculum=0.5))
    smallest = []
    for images.done in (0, 25, 50, 99):
        smallest.append(images.smallest_crop())
    assert smallest == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert batch(RecoverConfig(crop=(0.2, 1.0))).smallest_crop() == 0.2


def test_by_default_the_whole_images_are_seen():
    images = batch(RecoverConfig(jitter=(0, 0)))
    for images.done in range(5):
        assert torch.equal(images.view(images.pixels), images.pixels)


def test_with_amp_the_teacher_computes_in_bfloat16_and_the_statistics_in_float32():
    plain, mixed = batch(RecoverConfig(jitter=(0, 0))), batch(RecoverConfig(jitter=(0, 0), amp=True))
    for images in (plain, mixed):
        images.step()
    first, second = plain.losses[0]["loss"], mixed.losses[0]["loss"]
    assert first != second
    assert first == pytest.approx(second, rel=0.05)
    assert mixed.pixels.dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_before_the_update():
    network = teacher()
    network.classifier.bias.data[0] = math.inf  # type: ignore[union-attr]
    images = batch(RecoverConfig(), network=network)
    with pytest.raises(Diverged, match="loss is nan"):
        images.step()
    assert torch.equal(images.pixels.detach(), normal(6, 1, 8, 8, stream="first"))


# --- the artefact -------------------------------------------------------------------------------------------------


def spec(counts: tuple[int, ...] = (2, 1, 3), **recover: object) -> RecoverySpec:
    settings = RecoverConfig.model_validate({"iterations": 3, "batch_size": 4, **recover})
    return RecoverySpec(teacher=TeacherSpec.of(blobs(), SMALL), recover=settings, counts=counts)


def test_a_batch_has_the_first_images_of_all_classes_before_the_second_ones():
    assert [spec().rows(part).tolist() for part in range(spec().parts())] == [[0, 2, 3, 1], [4, 5]]
    published = spec(counts=(3,) * 5, batch_size=5)
    assert [published.rows(part).tolist() for part in range(3)] == [[c * 3 + i for c in range(5)] for i in range(3)]


def test_the_set_has_each_batch_in_its_rows(tmp_path: Path):
    made = artefacts.get(spec(), resources=Resources.of([blobs()], device="cpu"), cache=tmp_path)
    images = recovered(made)
    for part in range(2):
        assert np.array_equal(images[spec().rows(part)].numpy(), made.part(part)[0]["images"])
    assert images.dtype == torch.uint8


def test_another_batch_is_another_draw_and_another_seed_too(tmp_path: Path):
    resources = Resources.of([blobs()], device="cpu")
    made = artefacts.get(spec(counts=(4, 4, 4)), resources=resources, cache=tmp_path)
    first, second, *_ = (part["images"] for part, _ in made)
    assert not np.array_equal(first, second)
    other = spec(counts=(4, 4, 4)).model_copy(update={"seed": 1})
    assert not np.array_equal(artefacts.get(other, resources=resources, cache=tmp_path).part(0)[0]["images"], first)


def test_real_pixels_start_as_images_of_their_class():
    whole, source = spec(counts=(12, 12, 12), initial="real", batch_size=36), blobs()
    form = InputForm.of(source)
    first = whole._first(whole.rows(0), form, Resources.of([source]), Streams(0))
    labels = torch.arange(3).repeat_interleave(12)[whole.rows(0)]
    inputs = form(source.images)
    for label in range(3):
        ours = {tuple(row.tolist()) for row in first[labels == label].flatten(1)}
        assert ours == {tuple(row.tolist()) for row in inputs[source.labels == label].flatten(1)}


def test_pixels_start_from_mosaics_as_rded_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    teacher, recipe = {"epochs": 1, "batch_size": 12}, {"network": "convnet-1-w4-batchnorm"}
    mosaic, options = {"images": 12, "crops": 2}, RunOptions(device="cpu")
    chosen = distill(
        method("rded", teacher=teacher, mosaic=mosaic, recipe=recipe), blobs(), Size(ipc=2), options=options
    )
    recover = {"iterations": 1, "initial": "mosaics", "snapshots": 1, "batch_size": 4}
    config = method("sre2l", teacher=teacher, recover=recover, mosaic=mosaic, recipe=recipe)
    ds = distill(config, blobs(), Size(ipc=2), options=options)
    assert np.array_equal(sre2l.way_of(ds)[0], chosen.images)
    with pytest.raises(UserError, match="12 images, and 16 are asked for; ask for fewer, as a mosaic has crops of 4"):
        distill(config, blobs(), Size(ipc=4), options=options)


def test_a_killed_batch_goes_on_to_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    resources = Resources.of([blobs()], device="cpu")
    needed = artefacts.get(spec().teacher, resources=resources, cache=tmp_path)
    inputs = Resources({}, "cpu", {"teacher": needed})
    whole, _ = spec(iterations=6).make_part(0, resources=inputs, progress=Progress(tmp_path / "whole"))
    monkeypatch.setattr(recovery, "SAVE_SECONDS", 0.0)
    progress, step = Progress(tmp_path / "killed"), RecoveryBatch.step

    def until_the_fourth(images: RecoveryBatch) -> None:
        if images.done == 4:
            raise KeyboardInterrupt
        step(images)

    monkeypatch.setattr(RecoveryBatch, "step", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        spec(iterations=6).make_part(0, resources=inputs, progress=progress)
    state = progress.load()
    assert state is not None
    assert state["done"] == 4
    monkeypatch.setattr(RecoveryBatch, "step", step)
    resumed, facts = spec(iterations=6).make_part(0, resources=inputs, progress=progress)
    assert np.array_equal(resumed["images"], whole["images"])
    assert [record["iteration"] for record in facts["losses"]] == [0, 5]


# --- the teacher --------------------------------------------------------------------------------------------------


def test_a_teacher_learns_and_is_found_as_it_was_trained(tmp_path: Path):
    source = blobs()
    made = artefacts.get(TeacherSpec.of(source, SMALL), resources=Resources.of([source], device="cpu"), cache=tmp_path)
    form = form_in(made)
    assert (form.mean, form.std) == source.channel_stats()
    network = network_of(made)
    assert accuracy(network, source, form, device=CPU) == made.part(0)[1]["accuracy"] > 0.6
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert any((module.running_var != 1).any() for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_a_killed_teacher_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dd_core.training import teachers

    source = blobs()
    whole = TeacherSpec.of(source, SMALL)
    resources = Resources.of([source], device="cpu")
    expected, _ = whole.make_part(0, resources=resources, progress=Progress(tmp_path / "whole"))
    monkeypatch.setattr(teachers, "SAVE_SECONDS", 0.0)
    progress, epoch = Progress(tmp_path / "killed"), teachers.Loop.epoch

    def until_the_second(loop: teachers.Loop) -> None:
        if loop.done == 2:
            raise KeyboardInterrupt
        epoch(loop)

    monkeypatch.setattr(teachers.Loop, "epoch", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        whole.make_part(0, resources=resources, progress=progress)
    done: list[int] = []

    def counted(loop: teachers.Loop) -> None:
        done.append(loop.done)
        epoch(loop)

    monkeypatch.setattr(teachers.Loop, "epoch", counted)
    resumed, _ = whole.make_part(0, resources=resources, progress=progress)
    assert done == [2], "the epochs before are not trained again"
    assert all(np.array_equal(resumed[name], expected[name]) for name in expected)


def test_the_teacher_is_the_recipes_network_unless_it_has_its_own():
    config = method("sre2l", recipe={"network": "convnet-2-w8-batchnorm"})
    assert config.needs(blobs(), size=Size(ipc=1), seed=0)["teacher"].network == "convnet-2-w8-batchnorm"  # type: ignore[attr-defined]
    config = method("sre2l", recipe={"network": "convnet-2"}, teacher={"network": "convnet-1-batchnorm"})
    assert config.needs(blobs(), size=Size(ipc=1), seed=0)["teacher"].network == "convnet-1-batchnorm"  # type: ignore[attr-defined]


def test_a_teacher_without_batch_norms_is_refused_before_it_is_trained():
    config = method("sre2l", recipe={"network": "convnet-2-w8"})
    with pytest.raises(UserError, match=r"'convnet-2-w8' has no batch norm, whose statistics SRe2L matches"):
        distill(config, blobs(), Size(ipc=1), options=RunOptions(device="cpu"))


@pytest.mark.parametrize(
    ("recover", "message"),
    [
        ({"crop": (0.5, 0.1)}, "crop: from 0.5 to 0.1 is no range"),
        ({"jitter": (3, 1)}, "jitter: from 3 to 1 is no range"),
        ({"curriculum": 0.5}, "curriculum: 0.5 shrinks the crop, and crop is none"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(recover: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        RecoverConfig.model_validate(recover)


# --- published weights --------------------------------------------------------------------------------------------


class Published(nn.Module):
    """What a library would hand over: weights of its own, for 1000 classes unless other ones are asked for."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv1(images)).mean((2, 3)))


def published(monkeypatch: pytest.MonkeyPatch, *, error: Exception | None = None) -> None:
    """torchvision and timm, which hand over `Published` without any network."""
    import timm
    from torchvision import models

    def from_torchvision(name: str, *, weights: str | None, num_classes: int = 1000, **_: object) -> nn.Module:
        if error is not None and weights:
            raise error
        with streams.seeded(99, "published"):
            return Published(num_classes)

    def from_timm(name: str, *, num_classes: int, in_chans: int, pretrained: bool = False, **_: object) -> nn.Module:
        with streams.seeded(98, "published"):
            network = Published(num_classes)
        network.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "num_classes": 3}  # type: ignore[assignment]
        return network

    monkeypatch.setattr(models, "get_model", from_torchvision)
    monkeypatch.setattr(timm, "create_model", from_timm)


def photographs() -> LabelledImages:
    return blobs(channels=3, side=72, per_class=4)


def taught(tmp_path: Path, name: str, **fields: object) -> Artefact:
    config = TeacherConfig.model_validate({"network": name, "weights": "published", "batch_size": 12, **fields})
    resources = Resources.of([photographs()], device="cpu")
    return artefacts.get(TeacherSpec.of(photographs(), config), resources=resources, cache=tmp_path)


def test_published_weights_are_taken_as_they_are_with_their_own_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    published(monkeypatch)
    teacher = taught(tmp_path, "timm:resnet18", epochs=0)
    with streams.seeded(98, "published"):
        expected = Published(3)
    assert torch.equal(network_of(teacher).conv1.weight, expected.conv1.weight)  # type: ignore[union-attr]
    assert (form_in(teacher).mean, form_in(teacher).std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_for_other_classes_the_last_layer_is_fresh_and_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    published(monkeypatch)
    teacher = taught(tmp_path, "torchvision:resnet18", epochs=1, learning_rate=1e-9, weight_decay=0.0)
    with streams.seeded(99, "published"):
        expected = Published(1000)
    network = network_of(teacher)
    torch.testing.assert_close(network.conv1.weight, expected.conv1.weight)  # type: ignore[union-attr]
    assert network.fc.out_features == 3  # type: ignore[union-attr]
    assert form_in(teacher).mean == IMAGENET[0]


def test_published_weights_that_cannot_be_had_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    published(monkeypatch)
    with pytest.raises(UserError, match="are for 1000 classes, and there are 3 here; train it for some epochs"):
        taught(tmp_path, "torchvision:resnet18", epochs=0)
    with pytest.raises(UserError, match="network 'resnet-8' has no published weights"):
        taught(tmp_path, "resnet-8")
    published(monkeypatch, error=OSError("no route to host"))
    without = "the weights of network 'torchvision:resnet18' could not be loaded: no route to host; without a network "
    with pytest.raises(
        UserError, match=f"{without}connection, put the file of weights where its library looks: below TORCH"
    ):
        taught(tmp_path, "torchvision:resnet18")
    published(monkeypatch, error=RuntimeError("no weights"))
    with pytest.raises(UserError, match=r"could not be loaded: no weights$"):
        taught(tmp_path, "torchvision:resnet18")


@pytest.mark.parametrize("name", ["torchvision:inception_v3", "torchvision:googlenet"])
def test_published_weights_of_networks_that_normalise_images_themselves_are_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="are for a network that normalises its inputs again"):
        taught(tmp_path, name)


def test_published_weights_without_a_linear_layer_are_for_their_own_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Convolutional(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    published(monkeypatch)
    monkeypatch.setattr("torchvision.models.get_model", lambda *_, **__: Convolutional())
    with pytest.raises(
        UserError, match=r"could not be loaded: the network returns \(1, 1000\) for one image instead of \(1, 3\)"
    ):
        taught(tmp_path, "torchvision:squeezenet1_0")


def test_small_images_have_another_first_layer_than_published_weights(tmp_path: Path):
    config = TeacherConfig(network="torchvision:resnet18", weights="published")
    resources = Resources.of([blobs(channels=3)], device="cpu")
    with pytest.raises(UserError, match="need images of more than 64 pixels a side"):
        artefacts.get(TeacherSpec.of(blobs(channels=3), config), resources=resources, cache=tmp_path)


def test_fresh_weights_are_trained():
    with pytest.raises(UserError, match="0 leaves fresh weights untrained"):
        TeacherConfig(epochs=0)
    assert "weights" not in TeacherConfig().model_dump(mode="json")


# --- on their way -------------------------------------------------------------------------------------------------


def kept_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **recover: object) -> Path:
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    teacher = {"epochs": 1, "batch_size": 12}
    settings = {"iterations": 6, "batch_size": 4, **recover}
    config = method("sre2l", teacher=teacher, recover=settings, recipe={"network": "convnet-1-w4-batchnorm"})
    out = tmp_path / "set.safetensors"
    distill(config, blobs(), Size(ipc=2), out=out, options=RunOptions(device="cpu"))
    return out


def test_the_images_way_is_kept_from_their_start_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ds = store.read_set(kept_way(tmp_path, monkeypatch, snapshots=3))
    way = sre2l.way_of(ds)
    assert way.shape == (4, 6, 1, 8, 8)
    assert np.array_equal(way[-1], ds.images)
    mean, std = ds.manifest.pixels.mean[0], ds.manifest.pixels.std[0]
    spec = RecoverySpec(
        teacher=TeacherSpec.of(blobs(), TeacherConfig(network="convnet-1-w4-batchnorm", epochs=1, batch_size=12)),
        recover=RecoverConfig(iterations=6, batch_size=4, snapshots=3),
        counts=(2, 2, 2),
    )
    for part in range(2):
        rows = spec.rows(part)
        noise = torch.randn(len(rows), 1, 8, 8, generator=Streams(0).child("recovery", part).generator("noise"))
        expected = ((noise * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        assert np.array_equal(way[0][rows], expected.numpy()), "before the first iteration"
    without = spec.recover.model_copy(update={"snapshots": 0})
    assert spec.model_copy(update={"recover": without}).digest() != spec.digest()
    assert "snapshots" not in without.model_dump(mode="json")


def test_snapshots_are_evenly_spaced_and_survive_a_state():
    images = batch(RecoverConfig(iterations=10, snapshots=4))
    taken: list[int] = []
    while images.done < 10:
        before = len(images.snapshots)
        images.step()
        taken += [images.done - 1] * (len(images.snapshots) - before)
        if images.done == 5:
            again = batch(RecoverConfig(iterations=10, snapshots=4))
            again.load_state_dict(images.state_dict())
            images = again
    assert taken == [0, 2, 5, 7]


def test_the_way_is_drawn_as_an_animation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call):
    file, out = kept_way(tmp_path, monkeypatch, snapshots=3), tmp_path / "way.gif"
    code, shown, _ = call("inspect", file, "--animate", out)
    assert code == 0
    assert f"images drawn in {out}" in " ".join(shown.split())
    with Image.open(out) as animation:
        assert animation.n_frames == 4  # type: ignore[attr-defined]
        assert animation.info["duration"] == 100
        animation.seek(3)
        assert animation.info["duration"] == 2000
    first = out.read_bytes()
    call("inspect", file, "--animate", out)
    assert out.read_bytes() == first


def test_a_way_that_cannot_be_shown_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call):
    code, _, err = call("inspect", kept_way(tmp_path, monkeypatch), "--animate", tmp_path / "way.png")
    assert (code, "expected a name that ends in .gif" in err) == (2, True)
    with pytest.raises(
        UserError, match=r"no intermediate states of the images were kept; distil with --set recover.snapshots=20"
    ):
        sre2l.way_of(store.read_set(tmp_path / "set.safetensors"))
    ds = distill(method("random"), blobs(), Size(ipc=1), options=RunOptions(device="cpu"))
    with pytest.raises(UserError, match="only a set of method sre2l can be animated"):
        sre2l.way_of(ds)
    (tmp_path / "other").mkdir()
    kept = store.read_set(kept_way(tmp_path / "other", monkeypatch, snapshots=2))
    artefacts.prune(everything=True)
    with pytest.raises(UserError, match="are not in this cache"):
        sre2l.way_of(kept)
