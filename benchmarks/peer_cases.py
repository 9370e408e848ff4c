"""The cases of `peers.py`: what the engine's worker repeats, and what the plain reference's worker repeats beside it.

Both have as many images, of the same shape, the same network, the same steps and the same augmentation; each draws its
own numbers. A side imports what it needs when it is called, so that the other's imports are not in its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from step_cases import CLASSES, Parts, Record, evaluation, expert_epoch, matching, noise, outer_step

WIDTH, SIDE = 64, 32
NETWORK = f"convnet-3-w{WIDTH}"
INNER = 40  # steps of a student, on ten images each


@dataclass(frozen=True)
class Peer:
    """What both sides do; `asked` is the least of plain over ours that is hoped for, in CPU time and in memory."""

    ours: Callable[[Path], Parts]
    plain: Callable[[Path], Parts]
    what: str
    asked: dict[str, float] = field(default_factory=dict[str, float])


def _step(name: str, ipc: int, real: int, **options: Any) -> Callable[[Path], Parts]:
    method: Record = {"name": name, "steps": 1_000_000, "recipe": {"network": NETWORK}, **options}
    return lambda cache: outer_step(method=method, ipc=ipc, real=real, cache=cache)


# --- matching trajectories -------------------------------------------------------------------------------------------


def _student(*, soft: bool = False, approximate: bool = False) -> Parts:
    import peer_references as plain
    import torch

    torch.manual_seed(0)
    model, other = (plain.ConvNet(3, WIDTH) for _ in range(2))
    start = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    target = {name: value.detach() for name, value in other.named_parameters()}
    images = torch.randn(CLASSES, 3, SIDE, SIDE, requires_grad=True)
    labels, rate = torch.arange(CLASSES), torch.tensor(0.01, requires_grad=True)
    logits = torch.randn(CLASSES, CLASSES, requires_grad=True)
    pixels = torch.optim.SGD([images], lr=100, momentum=0.5)
    rates = torch.optim.SGD([rate], lr=1e-7, momentum=0.5)
    soft_labels = torch.optim.SGD([logits], lr=5.0, momentum=0.9)
    shared: Record = {"steps": INNER, "batch": CLASSES, "augment": plain.dsa}

    def exact() -> None:
        loss = plain.matched(model, start, target, images, logits if soft else labels, rate, **shared)
        for optimiser in (pixels, rates, soft_labels):
            optimiser.zero_grad()
        loss.backward()
        for optimiser in (pixels, rates, soft_labels):
            optimiser.step()
        loss.item()

    def approximated() -> None:
        _, images.grad = plain.tesla(model, start, target, images, labels, 0.01, **shared)
        pixels.step()

    return {"step": approximated if approximate else exact}


def _matching(name: str, **options: Any) -> Callable[[Path], Parts]:
    return lambda cache: matching(name, WIDTH, 1, INNER, **options).ready(cache)


# --- matching distributions and gradients ------------------------------------------------------------------------


def _classes(real: int, synthetic: int) -> tuple[Any, Any]:
    import torch

    return torch.randn(CLASSES, real, 3, SIDE, SIDE), torch.randn(CLASSES, synthetic, 3, SIDE, SIDE, requires_grad=True)


def _siamese(*batches: Any) -> list[Any]:
    """The same transform of both: the same draws, one after the other."""
    import random

    import peer_references as plain
    import torch

    drawn, chosen, result = torch.get_rng_state(), random.getstate(), list[Any]()
    for images in batches:
        torch.set_rng_state(drawn)
        random.setstate(chosen)
        result.append(plain.dsa(images))
    return result


def _distribution(_: Path) -> Parts:
    import peer_references as plain
    import torch

    real, synthetic = _classes(64, 10)
    optimiser = torch.optim.SGD([synthetic], lr=1.0, momentum=0.5)

    def step() -> None:
        features = plain.ConvNet(3, WIDTH).features
        pairs = [_siamese(real[label], synthetic[label]) for label in range(CLASSES)]
        loss = plain.distribution(features, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return {"step": step}


def _gradients(_: Path, *, augmented: bool) -> Parts:
    import peer_references as plain
    import torch

    real, synthetic = _classes(64, 1)
    optimiser = torch.optim.SGD([synthetic], lr=0.1, momentum=0.5)

    def step() -> None:
        model, total = plain.ConvNet(3, WIDTH), torch.zeros(())
        for label in range(CLASSES):
            pair = (real[label], synthetic[label])
            total = total + plain.gradient_distance(model, *(_siamese(*pair) if augmented else pair), label)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        total.item()

    return {"step": step}


# --- recovery, and kernel ridge regression ---------------------------------------------------------------------------

RECOVERED = 50
REGRESSED, QUERIES, POOL = 100, 256, 2


def _recovery(_: Path) -> Parts:
    import torch

    from dd_core import networks
    from dd_core.images import InputForm
    from dd_core.methods.sre2l.config import RecoverConfig
    from dd_core.methods.sre2l.recovery import RecoveryBatch
    from dd_core.streams import Streams

    teacher = networks.build(f"{NETWORK}-batchnorm", in_channels=3, classes=CLASSES, image_size=(SIDE, SIDE), seed=0)
    settings = RecoverConfig(
        iterations=1_000_000, crop=None, flip=False, jitter=(0, 0), learning_rate=0.25, r_bn=0.01, log_every=1_000_000
    )
    labels = torch.arange(RECOVERED) % CLASSES
    form, first = InputForm((0.5,) * 3, (0.25,) * 3), torch.randn(RECOVERED, 3, SIDE, SIDE)
    batch = RecoveryBatch(teacher, first, labels, form, settings, streams=Streams(0), device=torch.device("cpu"))
    return {"iteration": batch.step}


def _plain_recovery(_: Path) -> Parts:
    import peer_references as plain
    import torch

    teacher = plain.ConvNet(3, WIDTH, norm="bn").eval()
    images, labels = torch.randn(RECOVERED, 3, SIDE, SIDE, requires_grad=True), torch.arange(RECOVERED) % CLASSES
    optimiser = torch.optim.Adam([images], lr=0.25, betas=(0.5, 0.9))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1_000_000)

    def iteration() -> None:
        loss = plain.recovery(teacher, images, labels, r_bn=0.01, first=10.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
        with torch.no_grad():
            images.clamp_(-2, 2)

    return {"iteration": iteration}


def _regression(_: Path) -> Parts:
    import peer_references as plain
    import torch

    pool = [plain.ConvNet(3, WIDTH, norm="bn") for _ in range(POOL)]
    learners = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3) for model in pool]
    images = torch.randn(REGRESSED, 3, SIDE, SIDE, requires_grad=True)
    targets = torch.randn(REGRESSED, CLASSES, requires_grad=True)
    real, answers = torch.randn(QUERIES, 3, SIDE, SIDE), torch.randn(QUERIES, CLASSES)
    optimiser = torch.optim.AdamW([images, targets], lr=1e-4, weight_decay=0.0)

    def step() -> None:
        member = int(torch.randint(POOL, ()))
        model, learner = pool[member], learners[member]
        model.eval()
        loss = plain.regression(model.features, images, targets, real, answers, ridge=1e-6)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()
        model.train()
        inner = torch.nn.functional.mse_loss(model(images.detach()), targets.detach())
        learner.zero_grad()
        inner.backward()
        learner.step()

    return {"step": step}


# --- augmentation, training, real images -----------------------------------------------------------------------------

AUGMENTED, REPEATS = 256, 10


def _augmented(kind: str, _: Path) -> Parts:
    import torch

    from dd_core import augment
    from dd_core.streams import generator

    images, turns = torch.randn(AUGMENTED, 3, SIDE, SIDE, requires_grad=True), iter(range(1_000_000))

    def both() -> None:
        for _ in range(REPEATS):
            drawn = generator(0, "augmentation", next(turns))
            augment.dsa(images, kind, generator=drawn).sum().backward()

    return {"forward and backward": both}


def _plainly_augmented(kind: str, _: Path) -> Parts:
    import peer_references as plain
    import torch

    images = torch.randn(AUGMENTED, 3, SIDE, SIDE, requires_grad=True)

    def both() -> None:
        for _ in range(REPEATS):
            plain.dsa(images, [kind]).sum().backward()

    return {"forward and backward": both}


REAL = 102  # of each class: four mini-batches of an expert


def _expert(_: Path) -> Parts:
    import peer_references as plain
    import torch

    model, images = plain.ConvNet(3, WIDTH), torch.randn(REAL * CLASSES, 3, SIDE, SIDE)
    labels = torch.arange(REAL * CLASSES) % CLASSES
    return {"epoch": lambda: plain.train(model, images, labels, epochs=1, rate=0.01, batch=256, augment=plain.dsa)}


LEARNED, EPOCHS, SCORED = 10, 10, 100


def _evaluation(_: Path) -> Parts:
    import peer_references as plain
    import torch

    images, labels = torch.randn(LEARNED * CLASSES, 3, SIDE, SIDE), torch.arange(LEARNED * CLASSES) % CLASSES
    tests, wanted = torch.randn(SCORED * CLASSES, 3, SIDE, SIDE), torch.arange(SCORED * CLASSES) % CLASSES
    fitted: Record = {}

    def fit() -> None:
        fitted["model"] = model = plain.ConvNet(3, WIDTH)
        how: Record = {"epochs": EPOCHS, "rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch": 256}
        plain.train(model, images, labels, augment=plain.dsa, **how)

    return {"fit": fit, "accuracy": lambda: plain.accuracy(fitted["model"], tests, wanted)}


WHITENED, SMALL = 1000, 16


def _whitening(_: Path) -> Parts:
    import torch

    from dd_core import zca
    from dd_core.images import LabelledImages

    pixels = torch.randint(256, (WHITENED, 3, SMALL, SMALL), dtype=torch.uint8)
    source = LabelledImages(pixels, torch.arange(WHITENED) % CLASSES, tuple("0123456789"), "noise")
    return {"fit": lambda: zca.fit(source)}


def _plain_whitening(_: Path) -> Parts:
    import numpy as np
    import peer_references as plain

    pixels = np.random.default_rng(0).random((WHITENED, 3 * SMALL**2))
    return {"fit": lambda: plain.whitening(pixels)}


HERDED, PICKS = 300, 10


def _herding(_: Path) -> Parts:
    from dd_core import selection

    source = noise(HERDED)
    return {
        "pick": lambda: selection.herded_indices(source, [PICKS] * CLASSES, selection.pixel_features(source)),
    }


def _plain_herding(_: Path) -> Parts:
    import peer_references as plain
    import torch

    pixels = torch.randint(256, (HERDED * CLASSES, 3, SIDE, SIDE), dtype=torch.uint8)
    labels = torch.arange(HERDED * CLASSES) % CLASSES

    def pick() -> None:
        for label in range(CLASSES):
            plain.herding(pixels[labels == label].flatten(1).float() / 255, PICKS)

    return {"pick": pick}


FILES, FILE_SIDE = 400, 96


def _files(cache: Path) -> Path:
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for index in range(FILES):
        path = cache / "photos" / f"class {index % CLASSES}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (FILE_SIDE, FILE_SIDE, 3), dtype=np.uint8)).save(path)
    return cache / "photos"


def _folder(cache: Path) -> Parts:
    from itertools import count

    from dd_core import datasets

    made, turns = _files(cache), count()

    def load() -> None:  # from another path each time: what was decoded before is found in the cache
        path = cache / f"link-{next(turns)}"
        path.symlink_to(made, target_is_directory=True)
        datasets.load(f"folder:{path}", image_size=SIDE)

    return {"load": load}


def _plain_folder(cache: Path) -> Parts:
    import peer_references as plain

    made = _files(cache)
    return {"load": lambda: plain.folder(made, SIDE)}


def peers() -> dict[str, Peer]:
    """Every case by its name."""
    one = "an iteration, 1 image a class, 64 real ones"
    student = f"an outer step, {INNER} inner steps on ten images, {NETWORK}"
    cases = {
        "mtt-full": Peer(_matching("mtt", gradient="full"), lambda _: _student(), student, {"cpu": 1.15}),
        "mtt-adjoint": Peer(
            _matching("mtt", gradient="adjoint"), lambda _: _student(), student, {"cpu": 0.95, "memory": 8.0}
        ),
        "mtt-compiled": Peer(
            _matching("mtt", gradient="adjoint", compile=True), lambda _: _student(), student, {"cpu": 1.1}
        ),
        "datm": Peer(
            _matching("datm", threshold=100.0, lr_label=5.0), lambda _: _student(soft=True), f"{student}, soft labels"
        ),
        "tesla": Peer(
            _matching("tesla", gradient="tesla"), lambda _: _student(approximate=True), student, {"cpu": 1.2}
        ),
        "dm": Peer(
            _step("dm", 10, 80, batch_real=64),
            _distribution,
            "a step, 10 images a class, 64 real ones",
            {"cpu": 1.8, "memory": 1.0},
        ),
        "dm-small": Peer(
            _step("dm", 10, 80, batch_real=64, batch_bytes=64 << 20),
            _distribution,
            "a step of dm, as above, with batch_bytes of 64 MiB",
            {"cpu": 1.8, "memory": 1.0},
        ),
        "dc": Peer(_step("dc", 1, 80, batch_real=64), partial(_gradients, augmented=False), one),
        "dsa": Peer(_step("dsa", 1, 80, batch_real=64), partial(_gradients, augmented=True), one),
        "sre2l": Peer(_recovery, _plain_recovery, f"an iteration of recovery, {RECOVERED} images", {"cpu": 1.2}),
        "krr-st": Peer(
            lambda cache: outer_step(
                method={
                    "name": "krr-st", "steps": 1_000_000, "objective": "labels", "networks": POOL, "online_steps": 2,
                    "batch_real": QUERIES, "recipe": {"network": f"{NETWORK}-batchnorm"},
                },
                ipc=REGRESSED // CLASSES, real=80, cache=cache,
            ),
            _regression,
            f"a step, {REGRESSED} images, {QUERIES} real ones, and a step of one network",
        ),
        "expert": Peer(
            lambda cache: expert_epoch(network=NETWORK, real=REAL, sharpness=None, cache=cache),
            _expert,
            f"an epoch, {REAL * CLASSES:,} images",
            {"cpu": 1.8},
        ),
        "evaluation": Peer(
            lambda cache: evaluation(network=NETWORK, ipc=LEARNED, epochs=EPOCHS, scored=SCORED, cache=cache),
            _evaluation,
            f"{EPOCHS} epochs of {LEARNED * CLASSES} images, then {SCORED * CLASSES:,} test images",
            {"cpu": 1.3},
        ),
        "zca": Peer(_whitening, _plain_whitening, f"fit to {WHITENED:,} images of {SMALL} px"),
        "herding": Peer(_herding, _plain_herding, f"{PICKS} of {HERDED} images of each class, in pixels"),
        "folder": Peer(_folder, _plain_folder, f"{FILES} JPEG files of {FILE_SIDE} px to {SIDE} px"),
    }  # fmt: skip
    for kind in ("color", "crop", "cutout", "flip", "scale", "rotate"):
        what = f"DSA's {kind}, {AUGMENTED} images, forward and backward {REPEATS} times"
        cases[f"dsa-{kind}"] = Peer(partial(_augmented, kind), partial(_plainly_augmented, kind), what, {"cpu": 1.0})
    return cases


PEERS = peers()
