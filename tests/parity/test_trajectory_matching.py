"""Matching training trajectories: the loss is the paper's, and everything that is drawn is drawn again alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import artefacts, augment, networks, zca
from dd_core.artefacts import Artefact, ArtefactSpec
from dd_core.distilled import Size
from dd_core.distiller import Context, MethodConfig
from dd_core.errors import Diverged, UserError
from dd_core.images import InputForm, LabelledImages
from dd_core.methods import method
from dd_core.methods.trajectory_matching.distiller import TrajectoryMatchingDistiller
from dd_core.methods.trajectory_matching.experts import trajectory
from dd_core.methods.trajectory_matching.opinions import feature_distance, gradient_distance, mean_logits, right_indices
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams, generator
from dd_core.testing import blobs
from dd_core.training import accuracy, train

CPU = torch.device("cpu")
NETWORK = "convnet-2-w8"
BLOBS = blobs(per_class=20)


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_APPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def matching(
    name: str = "mtt", *, ipc: int = 2, source: LabelledImages = BLOBS, **options: Any
) -> tuple[TrajectoryMatchingDistiller, Artefact]:
    defaults = {
        "steps": 6,
        "syn_steps": 3,
        "experts": 3,
        "training": {"batch_size": 20, "learning_rate": 0.05, "augmentation": "crop"},
        "recipe": {"network": NETWORK},
        "augmentation": "color_crop",
        "gradient": "full",
    }
    config = method(name, **{**defaults, **options})
    context = Context.gather(config, source, Size(ipc=ipc), seed=5, device=CPU)
    return config.build(context), context.artefacts["experts"]


def needs(config: MethodConfig) -> Mapping[str, ArtefactSpec]:
    return config.needs(BLOBS, size=Size(ipc=1), seed=0)


def expert_at(distiller: TrajectoryMatchingDistiller, experts: Artefact, index: int) -> tuple[Tensor, int]:
    """The weights of the expert of an outer iteration after each epoch, and the epoch where the student starts."""
    config, streams = distiller.config, Streams(5)
    turn, place = divmod(index, len(experts))
    expert = int(torch.randperm(len(experts), generator=streams.generator("experts", turn))[place])
    choices = config.last_epoch - config.first_epoch
    return trajectory(experts, expert), int(torch.randint(choices, (), generator=streams.generator("epoch", index)))


def distance(
    distiller: TrajectoryMatchingDistiller, experts: Artefact, index: int, soft: Tensor | None = None
) -> float:
    """The loss of equation 2, written out with modules and SGD by hand; soft: labels in place of the classes."""
    config, streams = distiller.config, Streams(5)
    rows, t = expert_at(distiller, experts, index)
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0)
    nn.utils.vector_to_parameters(rows[t].clone(), model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=distiller.rate.item())
    generator, batches = streams.generator("batches", index), []
    seen, labels = distiller.images.decode(distiller.pixels.detach()), torch.tensor([0, 0, 1, 1, 2, 2])
    labels = labels.repeat(config.formation**2) if soft is None else soft
    while len(batches) < config.syn_steps:
        batches += torch.randperm(len(labels), generator=generator).split(config.batch_syn or len(labels))
    for i, batch in enumerate(batches[: config.syn_steps]):
        drawn = streams.generator("augmentation", index * config.syn_steps + i)
        images = augment.dsa(seen[batch], config.augmentation, generator=drawn)
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels[batch]).backward()
        optimiser.step()
    end, target = nn.utils.parameters_to_vector(model.parameters()).detach(), rows[t + config.expert_epochs]
    return ((end - target).square().sum() / (rows[t] - target).square().sum()).item()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_syn": 4},
        {"last_epoch": 4, "expert_epochs": 1, "syn_steps": 5},
        {"formation": 2},
        {"formation": 3, "batch_syn": 20},
    ],
)
def test_the_loss_is_the_normalised_distance_of_the_paper(options: dict[str, Any]):
    distiller, experts = matching(lr_img=1.0, lr_lr=1e-4, **options)
    for index in range(5):
        expected = distance(distiller, experts, index)
        assert distiller.step(index)["loss"] == pytest.approx(expected, rel=1e-4)


def test_only_the_epochs_that_are_matched_are_kept():
    _, experts = matching(first_epoch=1, last_epoch=4, expert_epochs=2)
    assert len(trajectory(experts, 0)) == 5  # epochs 1 to 5: starts 1, 2, 3 and targets 3, 4, 5
    with pytest.raises(
        UserError,
        match="can start from no epoch: first_epoch 2, last_epoch 2; give first_epoch < range_start",
    ):
        method("mtt", first_epoch=2, last_epoch=2)
    with pytest.raises(UserError, match=r"need experts of 5 epochs; training.epochs is 4"):
        method("mtt", last_epoch=4, expert_epochs=2, training={"epochs": 4})
    with pytest.raises(UserError, match=r"first_epoch 2, range_start 2, last_epoch 4"):
        method("mtt", first_epoch=2, range_start=2, last_epoch=4)
    with pytest.raises(UserError, match="statistics 'imagenet' normalise pixels, and zca whitens them instead"):
        method("mtt", zca=True, statistics="imagenet")
    with pytest.raises(UserError, match=r"training.augmentation: unknown kind of augmentation in 'colour'"):
        method("mtt", training={"augmentation": "colour"})
    with pytest.raises(UserError, match=r"range_below says when the range grows, and needs a range_start"):
        method("mtt", range_below=0.5)
    weights = {"distribution": "default", "count": 1}
    with pytest.raises(UserError, match=r"recipe\.initialisation: give 'default' or 'xavier', not 'pretrained'"):
        method("mtt", recipe={"initialisation": "pretrained", "weights": weights})
    with pytest.raises(UserError, match="needs a window from 1 to 20 steps, not None"):
        method("mtt", gradient="truncated")
    for option in ({"formation": 2}, {"clamp": True}):
        with pytest.raises(UserError, match="formation and clamp need pixels that are not whitened"):
            method("mtt", zca=True, **option)
    with pytest.raises(UserError, match="soft_labels are learned for one image each"):
        method("datm", formation=2)


def test_ranges_share_experts_that_keep_all_epochs_and_students_start_in_the_same_places():
    options = {"first_epoch": 2, "last_epoch": 5, "training": {"batch_size": 20, "learning_rate": 0.05, "epochs": 9}}
    few, _ = matching(**options)
    whole, experts = matching(**options, keep="all")
    assert len(trajectory(experts, 0)) == 10
    for index in range(3):
        a, b = few._pair(index), whole._pair(index)
        assert all(torch.equal(x, y) for pair in zip(a, b, strict=True) for x, y in zip(*pair, strict=True))
    other = method("mtt", **{**options, "last_epoch": 7, "keep": "all", "experts": 3, "recipe": {"network": NETWORK}})
    assert needs(other) == needs(whole.config)


def test_experts_start_as_the_recipe_says_that_networks_do():
    recipe = {"network": NETWORK, "initialisation": "xavier"}
    _, experts = matching(recipe=recipe)
    _, drawn = matching()
    streams = Streams(0).child("expert", 0)
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=streams.seed)
    networks.initialise_xavier(model, generator=streams.generator("xavier"))
    assert torch.equal(trajectory(experts, 0)[0], nn.utils.parameters_to_vector(model.parameters()))
    assert not torch.equal(trajectory(experts, 0)[0], trajectory(drawn, 0)[0])


def test_every_expert_is_used_equally_often(monkeypatch: pytest.MonkeyPatch):
    distiller, _ = matching()
    used: list[int] = []
    real = distiller._trajectory
    monkeypatch.setattr(distiller, "_trajectory", lambda index: (used.append(index), real(index))[1])
    for index in range(6):
        distiller.step(index)
    assert sorted(used) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("gradient", "lowest"), [("adjoint", 1 - 1e-6), ("tesla", 0.2)])
def test_other_gradients_are_the_exact_one_or_near_it(gradient: str, lowest: float):
    exact, other = matching(syn_steps=8)[0], matching(syn_steps=8, gradient=gradient)[0]
    for one in (exact, other):
        one.step(0)
    cosine = torch.cosine_similarity(exact.pixels.grad.flatten(), other.pixels.grad.flatten(), dim=0).item()
    assert cosine >= lowest
    assert (cosine > 1 - 1e-6) == (gradient == "adjoint")


def test_the_distance_falls_and_the_rate_is_learned_and_exported():
    options = {"lr_img": 30.0, "lr_student": 0.01, "lr_lr": 1e-3, "last_epoch": 1, "augmentation": "none"}
    distiller, _ = matching(steps=60, syn_steps=6, **options)
    losses = [distiller.step(index)["loss"] for index in range(60)]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert distiller.rate.item() != pytest.approx(0.01)
    assert distiller.export().manifest.recipe.learning_rate == pytest.approx(distiller.rate.item())


def test_the_pixels_of_the_set_are_averaged_over_the_iterations_where_asked():
    plain, averaged = (matching(ema=ema, lr_img=30.0)[0] for ema in (None, 0.9))
    expected = averaged.pixels.detach().clone()
    for index in range(4):
        plain.step(index)
        averaged.step(index)
        expected = 0.9 * expected + 0.1 * averaged.pixels.detach()
    assert torch.equal(plain.pixels, averaged.pixels)
    assert torch.equal(torch.tensor(plain.export().images), plain.pixels.detach())
    assert torch.allclose(torch.tensor(averaged.export().images), expected, atol=1e-6)


def test_pixels_and_rate_are_moved_by_sgd_with_momentum():
    distiller, _ = matching(lr_img=3.0, lr_lr=1e-4, momentum=0.5)
    leaves, rates = (distiller.pixels, distiller.rate), (3.0, 1e-4)
    expected, velocity = [leaf.detach().clone() for leaf in leaves], [torch.zeros_like(leaf) for leaf in leaves]
    for index in range(4):
        distiller.step(index)
        velocity = [0.5 * v + leaf.grad for v, leaf in zip(velocity, leaves, strict=True)]
        expected = [value - rate * v for value, rate, v in zip(expected, rates, velocity, strict=True)]
    for leaf, value in zip(leaves, expected, strict=True):
        assert torch.allclose(leaf, value, rtol=1e-5, atol=1e-7)


def test_ftd_has_flat_experts_and_tesla_its_gradient():
    assert method("ftd").training.sharpness is not None
    assert method("mtt").training.sharpness is None
    assert needs(method("ftd"))["experts"].digest() != needs(method("mtt"))["experts"].digest()
    assert needs(method("tesla")) == needs(method("mtt"))
    assert (method("tesla").gradient, method("mtt").gradient) == ("tesla", "auto")


def test_a_rate_that_is_no_longer_positive_stops_the_run():
    distiller, _ = matching(lr_img=1e-6, lr_lr=1.0)
    with pytest.raises(Diverged, match="the student's learning rate became -"):
        [distiller.step(index) for index in range(6)]


def test_a_class_that_is_too_small_is_refused_before_experts_are_trained(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="has 20 images, and 21 are asked for"):
        distill(method("mtt"), BLOBS, Size(ipc=21))
    with pytest.raises(UserError, match=r"'convnet-1-batchnorm' has a BatchNorm2d.*; mtt needs a network without"):
        distill(method("mtt", recipe={"network": "convnet-1-batchnorm"}), BLOBS, Size(ipc=1))
    assert artefacts.listing() == []


def test_a_set_is_trained_on_at_its_own_rate():
    config = method(
        "mtt", steps=2, syn_steps=2, experts=1, recipe={"network": NETWORK, "epochs": 2}, lr_student=0.02, lr_lr=0.0
    )
    ds = distill(config, BLOBS, Size(ipc=1), options=RunOptions(device="cpu"))
    assert ds.manifest.recipe.learning_rate == pytest.approx(0.02)
    train(ds, device="cpu")


# --- difficulty, soft labels, other distances --------------------------------------------------------------------


def starts_of(distiller: TrajectoryMatchingDistiller, experts: Artefact, index: int) -> int:
    """The epoch that the student of an outer iteration starts from."""
    start = torch.cat([one.flatten() for one in distiller._pair(index)[0]])
    rows = [row for expert in range(len(experts)) for row in enumerate(trajectory(experts, expert))]
    return next(epoch for epoch, row in rows if torch.equal(row, start))


def test_the_range_of_starts_grows_by_iterations_as_datm_has_it():
    distiller, experts = matching(range_start=2, range_growth=10, last_epoch=6)
    ends = [distiller._range_end(index) for index in range(14)]
    assert ends == [2 + int(4 * index / 10) for index in range(10)] + [6, 6, 6, 6]
    assert [distiller.step(index)["range"] for index in range(4)] == [2.0, 2.0, 2.0, 3.0]
    early = {starts_of(distiller, experts, index) for index in range(3)}
    late = {starts_of(distiller, experts, index) for index in range(10, 60)}
    assert early <= {0, 1}
    assert late == {0, 1, 2, 3, 4, 5}


def test_the_range_grows_when_what_it_has_is_matched():
    distiller, _ = matching(range_start=1, range_below=0.5, last_epoch=3)
    needed = next(n for n in range(100) if 0.1 + 0.9 * 0.95**n < 0.5)  # a mean that comes from 1 towards 0.1
    for _ in range(needed - 1):
        distiller._move_range(0.1)
    assert distiller.reach == 1, "a mean of late losses, not one loss"
    distiller._move_range(0.1)
    assert distiller.reach == 2
    for _ in range(needed - 1):
        distiller._move_range(0.1)
    assert distiller.reach == 2, "the mean begins again"
    for _ in range(100):
        distiller._move_range(0.1)
    assert distiller.reach == 3, "and not past last_epoch"
    again, _ = matching(range_start=1, range_below=0.5, last_epoch=3)
    again.load_state_dict(distiller.state_dict())
    assert (again.reach, again.mean_loss) == (3, distiller.mean_loss)


def test_no_step_is_taken_where_the_loss_is_above_the_threshold():
    options = {"lr_img": 30.0, "lr_lr": 1e-4, "training": {"batch_size": 20, "epochs": 12}}
    rejecting, _ = matching("datm", threshold=1e-9, **options)
    before = [one.detach().clone() for one in rejecting.learned]
    assert rejecting.step(0)["taken"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(rejecting.learned, before, strict=True))
    assert not rejecting.optimiser.state
    taking, _ = matching("datm", threshold=1e9, **options)
    assert taking.step(0)["taken"] == 1.0
    assert not any(torch.equal(a, b) for a, b in zip(taking.learned, before, strict=True))


def test_initial_images_are_those_that_the_first_expert_gets_right():
    expert_says = {0: [True, False, False, False, True, True], 1: [False, True, False, False, False, False]}
    source = LabelledImages(
        torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 1, 1]), ("a", "b"), "six"
    )
    asked: list[int] = []

    def right(expert: int) -> torch.Tensor:
        asked.append(expert)
        return torch.tensor(expert_says[expert])

    assert right_indices(source, (1, 1), right, 2, streams=Streams(0))[0] == 0
    assert asked == [0], "the second expert is not asked where the first has enough"
    assert right_indices(source, (2, 2), right, 2, streams=Streams(0))[:2].tolist() == [0, 1]
    three = right_indices(source, (3, 2), right, 2, streams=Streams(0))
    assert three[:2].tolist() == [0, 1]
    assert three[2] in (2, 3), "last of all, any"
    expert_says = {0: [True] + 5 * [False], 1: 6 * [True]}
    for seed in range(6):
        assert right_indices(source, (2, 1), right, 2, streams=Streams(seed))[0] == 0, "right by both, and so first"


def test_mean_logits_are_of_the_experts_that_are_right():
    logits = torch.tensor([[[3.0, 1.0], [0.0, 2.0]], [[5.0, 1.0], [4.0, 0.0]], [[0.0, 9.0], [0.0, 4.0]]])
    found = mean_logits(logits, torch.tensor([0, 1]))
    assert found.tolist() == [[4.0, 1.0], [0.0, 3.0]]
    nobody = mean_logits(logits[:1], torch.tensor([1, 0]))
    assert torch.equal(nobody, logits[0])


def test_datm_starts_from_what_experts_get_right_and_from_their_mean_logits():
    """On noise that experts half learn, each other images: an image counts by the experts that are right about it."""
    noise = torch.randint(0, 256, (60, 1, 8, 8), generator=generator(0, "noise"), dtype=torch.uint8)
    source = LabelledImages(noise, BLOBS.labels, BLOBS.classes, "noise")
    distiller, experts = matching(
        "datm", source=source, ipc=14, last_epoch=6, expert_epochs=1, training={"batch_size": 20, "epochs": 8}
    )
    assert distiller.soft is not None
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0).eval()
    inputs, says = distiller.form(source.images), list[Tensor]()
    for expert in range(3):
        kept = trajectory(experts, expert)
        assert len(kept) == 8, "epochs 0 to 6, and the last"
        nn.utils.vector_to_parameters(kept[-1].clone(), model.parameters())
        says.append(model(inputs).detach())
    right = torch.stack([logits.argmax(1) == source.labels for logits in says])
    for label in range(3):
        members = (source.labels == label).nonzero().flatten()
        drawn = members[torch.randperm(20, generator=Streams(5).generator("initial-images", label))].tolist()
        first = {row: next((expert for expert in range(3) if right[expert, row]), 3) for row in drawn}
        assert len({first[row] for row in drawn}) > 2, "experts that agree on every image would tell nothing apart"
        rows = sorted(drawn, key=first.__getitem__)[:14]
        part = slice(14 * label, 14 * label + 14)
        assert torch.allclose(distiller.pixels.detach()[part], inputs[rows])
        for row, soft in zip(rows, distiller.soft.detach()[part], strict=True):
            asked = [expert for expert in range(3) if right[expert, row]] or [0, 1, 2]
            assert torch.allclose(soft, sum(says[expert][row] for expert in asked) / len(asked), atol=1e-5)


def test_datm_starts_from_images_that_the_first_expert_gets_right_in_its_last_epoch():
    """On noisy images, of which the expert gets some wrong in its last epoch, and others in the first that is kept."""
    noise = torch.randint(0, 256, BLOBS.images.shape, generator=torch.Generator().manual_seed(3))
    mixed = (0.2 * BLOBS.images + 0.8 * noise).to(torch.uint8)
    source = LabelledImages(mixed, BLOBS.labels, BLOBS.classes, "noisy blobs")
    training = {"batch_size": 20, "learning_rate": 0.02, "epochs": 12}
    distiller, experts = matching("datm", ipc=6, source=source, training=training)
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0).eval()
    right = []
    for epoch in (0, -1):
        nn.utils.vector_to_parameters(trajectory(experts, 0)[epoch].clone(), model.parameters())
        right.append(model(InputForm.of(source)(mixed)).argmax(1) == source.labels)
    for label in range(3):
        of_class = right[1][source.labels == label]
        assert of_class.sum() >= 6, "there are enough"
        assert not of_class.all(), "and others"
    assert (right[0] & ~right[1]).any()
    inputs = InputForm.of(source)(mixed)
    same = (distiller.pixels.detach().flatten(1)[:, None] == inputs.flatten(1)[None]).all(2)
    chosen = same.float().argmax(1)
    assert same.any(1).all()
    assert right[1][chosen].all()
    assert torch.equal(source.labels[chosen], distiller.labels)


def test_soft_labels_are_learned_and_travel_as_logits():
    options = {"threshold": None, "lr_label": 5.0, "training": {"batch_size": 20, "epochs": 12}}
    distiller, experts = matching("datm", **options)
    assert distiller.soft is not None
    before, reference = distiller.soft.detach().clone(), soft_distance(distiller, experts, 0)
    assert distiller.step(0)["loss"] == pytest.approx(reference, rel=1e-4)
    first = distiller.soft.grad.clone()
    assert torch.allclose(distiller.soft, before - 5.0 * first, atol=1e-6)
    distiller.step(1)
    expected = before - 5.0 * first - 5.0 * (0.9 * first + distiller.soft.grad)  # SGD with momentum 0.9
    assert torch.allclose(distiller.soft, expected, atol=1e-5)
    ds = distiller.export()
    assert ds.manifest.targets == "logits"
    assert torch.equal(torch.tensor(ds.targets), distiller.soft.detach())


@pytest.mark.parametrize("gradient", ["full", "adjoint"])
def test_soft_labels_alone_are_learned_for_real_images_where_asked(gradient: str):
    distiller, _ = matching("datm", lr_img=0.0, gradient=gradient)
    whole, _ = matching("datm", gradient=gradient)
    before = distiller.export()
    for index in range(3):
        distiller.step(index)
        whole.step(index)
    ds = distiller.export()
    real = {image.numpy().tobytes() for image in BLOBS.images}
    assert {image.tobytes() for image in ds.quantised().images} <= real
    assert not {image.tobytes() for image in whole.export().quantised().images} <= real
    assert ds.targets is not None
    assert before.targets is not None
    assert abs(ds.targets - before.targets).max() > 1e-4
    for options in ({"soft_labels": False}, {"lr_label": 0.0}):
        with pytest.raises(UserError, match="lr_img 0 learns no pixels, so set soft_labels and an lr_label above 0"):
            method("datm", lr_img=0.0, **options)


def soft_distance(distiller: TrajectoryMatchingDistiller, experts: Artefact, index: int) -> float:
    """`distance` with the cross-entropy to soft labels."""
    assert distiller.soft is not None
    return distance(distiller, experts, index, distiller.soft.detach().softmax(1))


def test_m_datm_has_hard_labels_in_class_order_and_leaves_the_rate_to_the_evaluator():
    distiller, _ = matching("m-datm", lr_img=10.0, training={"batch_size": 20, "epochs": 8})
    for index in range(3):
        distiller.step(index)
    ds = distiller.export()
    assert ds.targets is None
    assert ds.labels is not None
    assert ds.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert ds.manifest.recipe.learning_rate == pytest.approx(0.01)


def test_the_cosine_to_the_exact_gradient_is_logged_where_asked():
    distiller, _ = matching(syn_steps=8, gradient="tesla", cosine_every=2)
    reports = [distiller.step(index) for index in range(3)]
    assert ["cosine" in report for report in reports] == [True, False, True]
    assert 0.2 < reports[0]["cosine"] < 1 - 1e-6
    assert matching(gradient="full", cosine_every=1)[0].step(0)["cosine"] == pytest.approx(1.0, abs=1e-6)


def other_distance(distiller: TrajectoryMatchingDistiller, experts: Artefact, index: int) -> tuple[float, Tensor]:
    """The distance of DM or DC that `also` names, and its gradient to the pixels; written out, an image at a time."""
    streams, transform = Streams(5), distiller.config.augmentation
    rows, t = expert_at(distiller, experts, index)
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0)
    nn.utils.vector_to_parameters(rows[t].clone(), model.parameters())

    def seen(images: Tensor) -> Tensor:
        """Every image, real or synthetic and of whatever class, under the one transform of the iteration."""
        drawn = [streams.generator("augmentation-of-both", index) for _ in images]
        alone = zip(images[:, None], drawn, strict=True)
        return torch.cat([augment.dsa(image, transform, generator=one) for image, one in alone])

    def gradients(images: Tensor, label: int) -> list[Tensor]:
        loss = F.cross_entropy(model(seen(images)), torch.full((len(images),), label))
        layers = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return [row for layer in layers if layer.ndim > 1 for row in layer.flatten(1)]

    (mean,), (std,) = BLOBS.channel_stats()
    pixels, total = distiller.pixels.detach().clone().requires_grad_(), torch.zeros(())
    for label in range(3):
        members = (BLOBS.labels == label).nonzero().flatten()
        drawn = torch.randperm(20, generator=streams.generator(f"real-{label}", index))[:8]
        real, synthetic = (BLOBS.images[members[drawn]] / 255 - mean) / std, pixels[2 * label : 2 * label + 2]
        if distiller.config.also == "features":
            means = [model.features(seen(images)).mean(0) for images in (real, synthetic)]
            total = total + (means[0].detach() - means[1]).square().sum()
        else:
            for a, b in zip(gradients(real, label), gradients(synthetic, label), strict=True):
                total = total + 1 - (a.detach() @ b) / (a.detach().norm() * b.norm())
    return total.item(), torch.autograd.grad(total, pixels)[0]


@pytest.mark.parametrize("also", ["features", "gradients"])
def test_another_distance_is_added_at_the_weights_where_the_student_starts(also: str):
    options = {"lr_img": 1.0, "augmentation": "color_crop", "batch_real": 8}
    (plain, _), (mixed, experts) = matching(**options), matching(**options, also=also, also_weight=0.2)
    for index in range(4):
        plain.load_state_dict(mixed.state_dict())
        value, gradient = other_distance(mixed, experts, index)
        plain.step(index)
        assert mixed.step(index)[also] == pytest.approx(value, rel=1e-3)
        added = mixed.pixels.grad - plain.pixels.grad
        assert torch.allclose(added, 0.2 * gradient, rtol=1e-2, atol=1e-3 * gradient.abs().max().item())


def test_the_distances_are_zero_between_equal_batches_and_those_of_the_papers():
    network = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0)
    generator = torch.Generator().manual_seed(0)
    real, syn = (torch.randn(n, 1, 8, 8, generator=generator) for n in (4, 2))
    for measure in (feature_distance, gradient_distance):
        assert measure(network, real, real, 1).item() == pytest.approx(0.0, abs=1e-4)
    means = [networks.embed(network, images).mean(0) for images in (real, syn)]
    expected = (means[0] - means[1]).square().sum().item()
    assert feature_distance(network, real, syn, 1).item() == pytest.approx(expected, rel=1e-5)
    rows = []
    for images in (real, syn):
        loss = F.cross_entropy(network(images), torch.full((len(images),), 2))
        rows.append([g.flatten(1) for g in torch.autograd.grad(loss, list(network.parameters())) if g.ndim > 1])
    pairs = [pair for layers in zip(*rows, strict=True) for pair in zip(*layers, strict=True)]
    total = sum(1 - (x @ y / (x.norm() * y.norm())).item() for x, y in pairs)
    assert gradient_distance(network, real, syn, 2).item() == pytest.approx(total, rel=1e-4)


def test_experts_in_memory_are_not_written_to():
    options = {"also": "features", "last_epoch": 3, "expert_epochs": 1, "initial": "right"}
    distiller, experts = matching(**options, training={"batch_size": 20, "epochs": 3})
    for index in range(4):
        distiller.step(index)
    for expert in range(3):
        assert torch.equal(torch.stack([*distiller._trajectory(expert)]), trajectory(experts, expert))


# --- how images are seen -----------------------------------------------------------------------------------------


def test_whitened_experts_students_and_sets_see_the_same_pixels():
    options = {"steps": 1, "syn_steps": 2, "experts": 1, "recipe": {"network": NETWORK}, "lr_img": 1e-9}
    config = method("mtt", zca=True, training={"batch_size": 10, "learning_rate": 0.1}, **options)
    ds = distill(config, BLOBS, Size(ipc=1), options=RunOptions(device="cpu"))
    assert ds.manifest.pixels.space == "whitened"
    whitening = zca.of(BLOBS)
    assert ds.whitening is not None
    assert (ds.whitening.matrix == whitening.matrix).all()
    raw = BLOBS.images.float().flatten(1) / 255
    match = (torch.tensor(ds.raw()).flatten(1)[:, None] - raw[None]).norm(dim=2).min(1).values
    assert match.max() < 1e-3, "it starts from real images, whitened"
    plain, whitened = needs(config.model_copy(update={"zca": False})), needs(config)
    assert (plain.keys(), whitened.keys()) == ({"experts"}, {"experts", "whitening"})
    assert plain["experts"].digest() != whitened["experts"].digest()
    rows = trajectory(artefacts.get(whitened["experts"]), 0)
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0)
    nn.utils.vector_to_parameters(rows[-1].clone(), model.parameters())
    assert accuracy(model, BLOBS, ds.input_form(), device=CPU) == 1.0


def test_the_statistics_of_imagenet_are_for_colours():
    with pytest.raises(UserError, match="statistics 'imagenet' are of 3 channels, and blobs has 1; take"):
        method("m-datm", statistics="imagenet").check(BLOBS, Size(ipc=1))
    colour = LabelledImages(BLOBS.images.expand(-1, 3, -1, -1).contiguous(), BLOBS.labels, BLOBS.classes, "colour")
    config = method(
        "m-datm", statistics="imagenet", steps=0, experts=1, last_epoch=1, expert_epochs=1, recipe={"network": NETWORK}
    )
    ds = distill(config, colour, Size(ipc=1), options=RunOptions(device="cpu"))
    assert ds.manifest.pixels.mean == (0.485, 0.456, 0.406)
    match = (torch.tensor(ds.raw()).flatten(1)[:, None] - colour.images.float().flatten(1)[None] / 255).norm(dim=2)
    assert match.min(1).values.max() < 1e-4
