"""FTD's mechanism on digits: do errors accumulate less along flat experts, and do flat weights bear more perturbation?

    python benchmarks/flatness.py [--workers 2] [--experts 5] [--sets 2] [--draws 3] [--small]

Experts are plain (SGD), or flat (GSAM) at FTD's rho and at a larger one; expert i starts from the same weights and sees
the same images in the same order whatever its kind. `mtt` distils ten images from --experts of a kind, several times
(--sets, seeds 0, 1, ...); all figures are of as many other experts of that kind.

Accumulated error (Du et al. 2023, section 3.2). A student starts where an expert is at epoch t and learns from the set,
N steps for M epochs of the expert, segment after segment, without being put back on the expert's path. After k of them

    accumulated = || student_k - expert_{t+kM} ||^2 / || expert_t - expert_{t+kM} ||^2      (distance: not divided)
    own         = || student'_k - expert_{t+kM} ||^2 / || expert_{t+(k-1)M} - expert_{t+kM} ||^2
    growth      = || student_k - student'_k || / || student_{k-1} - expert_{t+(k-1)M} ||

where student' was put back on the expert before segment k, and sees the same augmentation. So `own` is the matching
loss, and `growth` is the factor by which a segment changes the error that a student had before it. The twin is a
student on ten random real images at the set's rate.

Perturbation. Every filter w (a row of a layer's weights) is moved by `radius` ||w|| in a random direction, the same for
experts of all kinds; biases and the norms' parameters stay. Loss and accuracy are of all training and test images, for
experts at half and at the end of their epochs, and for students that followed from epoch 0 to the end. Flat experts
learn more slowly, and perturbation costs a network less if it has learned less; so the end of flat experts is also
compared with the epoch of plain experts whose training loss is nearest.

The last records are the claims, whether they held in direction, and a paired t-test over experts: nothing is asserted.
Settings were chosen by the losses of experts and of matching, on training images. Each run appends to
benchmarks/results/flatness.jsonl and draws benchmarks/results/flatness.png. Experts are kept in the artefact cache,
sets in --out; with --small records and picture stay there too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from flatness_figures import FLAT, KINDS, PLAIN, Point, as_trained, claims, draw, summaries
from record import RESULTS, append, facts, now
from torch import Tensor, nn

from dd_core import artefacts, augment, datasets, networks, selection
from dd_core.artefacts import Artefact, Resources
from dd_core.augment.names import resolve_strategy
from dd_core.distilled import Size
from dd_core.distiller import MethodConfig
from dd_core.images import Source, require_labels
from dd_core.methods import method
from dd_core.methods.trajectory_matching import opinions as matching
from dd_core.methods.trajectory_matching.experts import form_of, trajectory
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.system import parallel
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages

NAME = "flatness"
NETWORK = "convnet-w32"
M, N = 2, 20  # epochs of an expert, and steps of a student, in a segment
RADII = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)


class Lessons(NamedTuple):
    """The data of a student: images as networks see them, labels, DSA strategy, learning rate."""

    images: Tensor
    labels: Tensor
    strategy: str
    rate: float


def main() -> None:
    """Experts, sets, measurements, claims; then the picture."""
    options = parse()
    begun = time.monotonic()
    workers, train = Workers(count=options.workers), datasets.load("digits")
    for kind in KINDS:
        losses = [told["losses"] for _, told in experts_of(kind, train, options, workers)]
        write(options, {"what": "experts", "kind": kind, "losses": losses, "training": spec_of(kind, train, options)})
    sets = list(product(KINDS, range(options.sets)))
    for record in parallel.run(partial(distil, options=options), sets, workers=workers):
        write(options, record)
    places = list(product(KINDS, range(options.experts)))
    points = [one for some in parallel.run(partial(measure, options=options), places, workers=workers) for one in some]
    curves = summaries(points)
    for (kind, quantity), curve in curves.items():
        write(options, {"what": quantity, "kind": kind, **curve})
    for claim in claims(points, options.epochs):
        write(options, claim)
    write(options, {"what": "all", "minutes": round((time.monotonic() - begun) / 60, 1)})
    draw(curves, options.epochs, options.results.with_suffix(".png"))


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--experts", type=int, default=5, help="experts to distil from, and as many to measure on")
    parser.add_argument("--sets", type=int, default=2, help="sets distilled from each kind of experts")
    parser.add_argument("--draws", type=int, default=3, help="random directions at each radius")
    parser.add_argument("--steps", type=int, default=250, help="outer iterations of a set")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of an expert, a multiple of 4 to 48")
    parser.add_argument("--small", action="store_true", help="try it out in seconds; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder for the sets")
    options = parser.parse_args()
    if options.epochs not in range(4, 52, 4):
        parser.error(f"--epochs {options.epochs}: a multiple of 4, at most 48")
    if options.small:
        options.out /= "small"
        options.experts, options.sets, options.draws, options.steps, options.epochs = 2, 1, 1, 5, 8
    options.results = (options.out if options.small else RESULTS) / f"{NAME}.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    options.run = now()
    return options


def write(options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Print the claims and what is done, keep all."""
    if record["what"] == "claim":
        plain, flat = (f"{record[key]['mean']:.4f}" for key in ("plain", "flat"))
        held = f"{'held' if record['held'] else 'did not hold'} in direction, {record['experts_where_it_held']} experts"
        word = {"ahead": "larger", "behind": "smaller"}.get(record["verdict"]["word"], record["verdict"]["word"])
        print(f"{held}, paired t-test: {word or 'none'}: {record['claim']}: {flat}, plain {plain}", flush=True)
    elif record["what"] in ("experts", "distilled", "all"):
        print(
            json.dumps({key: record[key] for key in ("what", "kind", "seed", "minutes") if key in record}), flush=True
        )
    told = {
        name: getattr(options, name) for name in ("experts", "sets", "draws", "steps", "epochs", "workers", "small")
    }
    data = "digits of scikit-learn, 8x8, 1438 training and 359 test images"
    append(options.results, {**facts(NAME, told, run=options.run, data=data), **record})


# --- experts and sets --------------------------------------------------------------------------------------------


def configure(kind: str, options: argparse.Namespace) -> MethodConfig:
    """`mtt` along experts of a kind, on all of their epochs."""
    return method(
        "mtt",
        steps=options.steps,
        syn_steps=N,
        expert_epochs=M,
        last_epoch=options.epochs + 1 - M,
        lr_img=100.0,
        lr_student=0.01,
        lr_lr=1e-6,
        experts=options.experts,
        training={"batch_size": 64, "augmentation": "auto", "sharpness": KINDS[kind]},
        recipe={"network": NETWORK},
    )


def experts_of(kind: str, train: Source, options: argparse.Namespace, workers: Workers | None = None) -> Artefact:
    """Experts to distil from, followed by as many to measure on; they are trained unless the cache has them."""
    spec = configure(kind, options).needs(train, size=Size(ipc=1), seed=0)["experts"]
    spec = spec.model_copy(update={"count": 2 * options.experts})
    return artefacts.get(spec, resources=Resources.of([train], device="cpu"), workers=workers, reporter=Messages(print))


def spec_of(kind: str, train: Source, options: argparse.Namespace) -> dict[str, Any]:
    """The spec of the experts of a kind."""
    spec = configure(kind, options).needs(train, size=Size(ipc=1), seed=0)["experts"]
    return spec.model_dump(mode="json")


def set_of(kind: str, seed: int, options: argparse.Namespace):
    """A set distilled from experts of a kind; it is made unless its file exists."""
    name = f"{kind}-{seed}".replace(", ", "-").replace(" ", "-")
    return distill(
        configure(kind, options),
        datasets.load("digits"),
        Size(ipc=1),
        seed=seed,
        out=options.out / f"{name}.safetensors",
        options=RunOptions(device="cpu", threads=1, resume_command="the same command"),
    )


def distil(job: tuple[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """Distil a set; the record."""
    kind, seed = job
    ds = set_of(kind, seed, options)
    assert ds.manifest.provenance is not None
    rate, config = ds.manifest.recipe.learning_rate, ds.manifest.provenance.config
    return {"what": "distilled", "kind": kind, "seed": seed, "rate": rate, "config": config}


# --- measurements ------------------------------------------------------------------------------------------------


def measure(job: tuple[str, int], options: argparse.Namespace) -> list[Point]:
    """All values along one held-out expert."""
    kind, index = job
    train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
    network, streams = networks.for_source(NETWORK, train, seed=0), Streams(index)
    path = trajectory(experts_of(kind, train, options), options.experts + index)
    half, end = options.epochs // 2, options.epochs
    found: list[tuple[str, float, float]] = []
    students: list[Tensor] = []
    for seed in range(options.sets):
        ds, draws = set_of(kind, seed, options), streams.child("following", seed)
        strategy = resolve_strategy("auto", train.name)
        lessons = Lessons(ds.inputs(), torch.tensor(ds.labels), strategy, ds.manifest.recipe.learning_rate)
        values, student = follow(network, path, lessons, draws)
        students.append(student)
        found += [(f"{what}, from epoch 0", k, value) for what, k, value in values]
        values, _ = follow(network, path[half:], lessons, draws.child("half"))
        found += [(f"{what}, from epoch {half}", k, value) for what, k, value in values]
        values, _ = follow(network, path, twin_of(lessons, train, draws), draws)
        found += [(f"{what}, from epoch 0, random real", k, value) for what, k, value in values]
    whose = [(f"expert at epoch {half}", path[half]), (f"expert at epoch {end}", path[end])]
    whose += [("student", student) for student in students]
    whose += [(as_trained(flat), weights) for flat, weights in partners(kind, index, network, train, options)]
    for split, source in (("training", train), ("test", test)):
        for name, weights in whose:
            for radius in RADII:
                for turn in range(options.draws if radius else 1):
                    moved = perturbed(network, weights, radius, streams.generator("direction", turn))
                    loss, accuracy = scored(network, moved, source, train)
                    found.append((f"loss on {split} images, {name}", radius, loss))
                    found.append((f"accuracy on {split} images, {name}", radius, accuracy))
    return [Point(kind, what, index, x, value) for what, x, value in found]


def partners(
    kind: str, index: int, network: nn.Module, train: Source, options: argparse.Namespace
) -> list[tuple[str, Tensor]]:
    """A flat expert's last weights; of a plain expert, for each flat one, those with the loss nearest to its last."""
    path = trajectory(experts_of(kind, train, options), options.experts + index)
    if kind != PLAIN:
        return [(kind, path[-1])]
    losses = [scored(network, weights, train, train)[0] for weights in path]
    found: list[tuple[str, Tensor]] = []
    for flat in FLAT:
        end = trajectory(experts_of(flat, train, options), options.experts + index)[-1]
        goal = scored(network, end, train, train)[0]
        found.append((flat, path[min(range(len(path)), key=lambda epoch: abs(losses[epoch] - goal))]))
    return found


def scored(network: nn.Module, weights: Tensor, source: Source, train: Source) -> tuple[float, float]:
    """(loss, accuracy) of flat weights on all images of a source, normalised as the training images are."""
    labels = require_labels(source)
    logits = matching.logits_of(network, weights, form_of(train, "data")(source.take(torch.arange(len(source)))))
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def twin_of(lessons: Lessons, train: Source, streams: Streams) -> Lessons:
    """Random real images in place of the set."""
    chosen = selection.random_indices(train, [1] * len(train.classes), streams=streams, stream="random-real")
    return lessons._replace(images=form_of(train, "data")(train.take(chosen)))


def follow(
    network: nn.Module, path: Tensor, lessons: Lessons, streams: Streams
) -> tuple[list[tuple[str, float, float]], Tensor]:
    """(what, k, value) of each segment of a student that starts at path[0], and the student at the end."""
    found: list[tuple[str, float, float]] = []
    student = path[0]
    for k in range(1, (len(path) - 1) // M + 1):
        before, after = path[(k - 1) * M], path[k * M]
        brought = (student - before).norm()
        draws = streams.child("segment", k)
        put_back = learned(network, before, lessons, draws)
        student = learned(network, student, lessons, draws)
        distance = (student - after).square().sum()
        found += [
            ("accumulated error", k, (distance / (path[0] - after).square().sum()).item()),
            ("distance", k, distance.item()),
            ("own error", k, ((put_back - after).square().sum() / (before - after).square().sum()).item()),
        ]
        if k > 1:
            found.append(("growth", k, ((student - put_back).norm() / brought).item()))
    return found, student


def learned(network: nn.Module, weights: Tensor, lessons: Lessons, streams: Streams) -> Tensor:
    """Flat weights after N steps of plain descent on the lessons, as students take them in `mtt`."""
    nn.utils.vector_to_parameters(weights.clone(), network.parameters())
    parameters = tuple(network.parameters())
    for step in range(N):
        images = augment.dsa(lessons.images, lessons.strategy, generator=streams.generator("augmentation", step))
        gradients = torch.autograd.grad(F.cross_entropy(network(images), lessons.labels), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= lessons.rate * gradient
    return nn.utils.parameters_to_vector(parameters).detach().clone()


def perturbed(network: nn.Module, weights: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Flat weights with each filter moved by `radius` times its norm (Li et al. 2018, section 4)."""
    parts: list[Tensor] = []
    for part in matching.parameters_of(network, weights):
        if part.ndim == 1:
            parts.append(part)
            continue
        filters = part.flatten(1)
        direction = torch.randn(filters.shape, generator=generator)
        direction *= filters.norm(dim=1, keepdim=True) / direction.norm(dim=1, keepdim=True)
        parts.append((filters + radius * direction).flatten())
    return torch.cat(parts)


if __name__ == "__main__":
    main()
