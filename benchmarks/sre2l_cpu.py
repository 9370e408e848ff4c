"""SRe2L and RDED against random real images, by a teacher's labels and by the images' own, on a CPU.

    python benchmarks/sre2l_cpu.py --case digits|mnist|cifar10|natural [--data folder:DIR] [--copy TEXT] [--small]

Ten images a class: recovered from noise, recovered from real images, RDED's mosaics, and random real ones, the twin of
each score. The labels: those of the images (`hard`), and a teacher's for every view (`sre2l-fkd`), its batch norms
normalising by their running statistics (eval) or by the mini-batch (batch-stats). A seed is a set and a network; the
teacher is one for all. Whether labels or images differ is tested over seeds, paired.

digits and mnist have a ConvNet-2, 32 wide, with batch norm, 500 iterations, and single crops for RDED's mosaics;
cifar10 a ResNet-8, 16 wide, with a teacher of 15 epochs, 500 iterations, and mosaics of four. There one seed has the
whole table, and three its best pair of images and labels. Nothing is chosen on test images but that pair, which the
record says.

natural has the digits recovered from noise, without and with terms for natural images: total variation and the L2 norm,
three weights each. Beside the accuracy stands the roughness of the images: their total variation, divided by that of as
many real images of their class, which is 1 for real images.

Sets are kept in --out, teachers and recovered images in the cache; the same command goes on where it stopped. Appends
to benchmarks/results/sre2l_cpu.jsonl, and draws the images in benchmarks/results/sre2l-CASE.png.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from record import RESULTS, append, facts, now

from dd_core import artefacts, datasets, store, training
from dd_core.artefacts import Resources
from dd_core.distilled import DistilledSet, Size
from dd_core.distilled.pictures import contact_sheet
from dd_core.distiller import MethodConfig
from dd_core.evaluation import evaluate
from dd_core.evaluation.verdicts import paired
from dd_core.images import Source
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.synthetic import total_variation
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages
from dd_core.training.teachers import network_of

NAME, IPC = "sre2l-cpu", 10
PLAIN = {"crop": "none", "padding": 1}


class Case(NamedTuple):
    """The settings of a case: data, networks, methods and seeds."""

    teacher: dict[str, Any]
    recover: dict[str, Any]
    recipe: dict[str, Any]
    factor: int  # crops along each side of RDED's mosaics: four small digits in eight pixels are none
    seeds: int


CONVNET = {"network": "convnet-2-w32-batchnorm", "epochs": 300, "batch_size": 50}
CASES = {
    "digits": Case(
        {"epochs": 15, "learning_rate": 0.05, "batch_size": 64, "views": PLAIN},
        {"iterations": 500, "jitter": [0, 1]},
        CONVNET,
        1,
        3,
    ),
    "mnist": Case(
        {"epochs": 2, "learning_rate": 0.05, "batch_size": 128, "views": {"crop": "none", "padding": 2}},
        {"iterations": 500, "jitter": [0, 2]},
        {**CONVNET, "epochs": 100},
        1,
        3,
    ),
    "cifar10": Case(
        {"epochs": 15, "learning_rate": 0.1, "batch_size": 128},
        {"iterations": 500},
        {"network": "resnet-8", "epochs": 300, "batch_size": 50},
        2,
        1,
    ),
}
CASES["natural"] = CASES["digits"]
IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "recovered from noise": ("sre2l", {"initial": "noise"}),
    "recovered from real images": ("sre2l", {"initial": "real"}),
    "rded": ("rded", {}),
}
NATURAL: dict[str, tuple[str, dict[str, Any]]] = {
    "recovered from noise": ("sre2l", {"initial": "noise"}),
    **{f"total variation {weight:g}": ("sre2l", {"initial": "noise", "tv": weight}) for weight in (1e-5, 1e-4, 1e-3)},
    **{f"norm {weight:g}": ("sre2l", {"initial": "noise", "l2": weight}) for weight in (1e-3, 1e-2, 1e-1)},
}
REAL = "random real"
LABELS: dict[str, dict[str, Any]] = {
    "hard": {"protocol": "hard"},
    "eval": {"protocol": "sre2l-fkd", "teacher_mode": "eval"},
    "batch-stats": {"protocol": "sre2l-fkd", "teacher_mode": "batch-stats"},
}
BEST_SEEDS = 3  # of the best pair, where the table has one
SMALL: dict[str, Any] = {"teacher": {"epochs": 1}, "recover": {"iterations": 5}, "recipe": {"epochs": 3}}


def images_of(case: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The kinds of images of a case, by the method that makes each and how it recovers them."""
    return NATURAL if case == "natural" else IMAGES


Scores = dict[tuple[str, str], list[float]]  # by images and labels, one for each seed


class Bench:
    """The command line's options, the images, and the scores so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.case = options, CASES[options.case]
        self.workers = Workers(count=options.workers)
        self.train, self.test = (datasets.load(options.data, split=split) for split in ("train", "test"))
        self.scores: Scores = {}

    def config(self, images: str) -> MethodConfig:
        """The method that makes some images."""
        name, recover = images_of(self.options.case)[images]
        settings = {
            "teacher": self.case.teacher,
            "recover": {**self.case.recover, **recover},
            "recipe": self.case.recipe,
        }
        if self.options.small:
            settings = {part: {**values, **SMALL[part]} for part, values in settings.items()}
        if name == "rded":
            settings["mosaic"] = {"images": 100, "factor": self.case.factor}
            del settings["recover"]
        return method(name, **settings)

    def set_of(self, images: str, seed: int) -> DistilledSet:
        """A set, found or made."""
        out = self.options.out / f"{self.options.case}-{images.replace(' ', '-')}-{seed}.safetensors"
        run = RunOptions(
            device="cpu", workers=self.workers, reporter=Messages(print), resume_command="the same command"
        )
        return distill(self.config(images), self.train, Size(ipc=IPC), seed=seed, out=out, options=run)

    def teacher(self) -> None:
        """Train the teacher, unless the cache has it, and tell its accuracy on the test images."""
        spec = self.config(next(iter(IMAGES))).needs(self.train, size=Size(ipc=IPC), seed=0)["teacher"]
        resources = Resources.of([self.train], device="cpu")
        begun = time.monotonic()
        made = artefacts.get(spec, resources=resources, workers=self.workers, reporter=Messages(print))
        form = training.form_in(made)
        accuracy = training.accuracy(network_of(made), self.test, form, device=torch.device("cpu"))
        known = made.part(0)[1]["accuracy"]
        minutes = round((time.monotonic() - begun) / 60, 1)
        self.tell({"what": "teacher", "accuracy": accuracy, "training_accuracy": known, "minutes": minutes})

    def score(self, images: str, labels: str, seed: int) -> None:
        """One network on a set, and one on its twin."""
        ds = self.set_of(images, seed)
        begun = time.monotonic()
        result = evaluate(
            ds,
            train=self.train,
            test=self.test,
            nets=1,
            seed=seed,
            workers=self.workers,
            device="cpu",
            keep=self.options.out / "scores",
            **LABELS[labels],
        )
        ours, twin = result.accuracy.mean, result.random_real.mean
        self.scores.setdefault((images, labels), []).append(ours)
        first = images == next(iter(images_of(self.options.case)))  # every kind of images has the same twin
        if first:
            self.scores.setdefault((REAL, labels), []).append(twin)
        self.tell(
            {
                "what": "score",
                "images": images,
                "labels": labels,
                "seed": seed,
                "accuracy": ours,
                "random_real": twin,
                "seconds": round(time.monotonic() - begun, 1),
            }
        )

    def compare(self) -> None:
        """Labels on the same images, and images by the same labels, paired over seeds."""
        pairs = [((images, "eval"), (images, "hard")) for images in (*IMAGES, REAL)]
        pairs += [((images, labels), (REAL, labels)) for images in IMAGES for labels in LABELS]
        pairs += [((images, "batch-stats"), (images, "eval")) for images in (*IMAGES, REAL)]
        for first, second in pairs:
            ours, theirs = self.scores[first], self.scores[second]
            verdict = paired(ours, theirs)
            record = {"difference": verdict.difference, "p": verdict.p, "word": verdict.word, "seeds": len(ours)}
            self.tell({"what": "comparison", "first": first, "second": second, **record})

    def roughness(self, images: str, seed: int) -> None:
        """The total variation of images, divided by that of as many random real images."""
        ds = self.set_of(images, seed)
        real = distill(method("random"), self.train, Size(ipc=IPC), seed=seed, options=RunOptions(device="cpu"))
        ours, theirs = (total_variation(torch.from_numpy(each.raw())).item() for each in (ds, real))
        self.tell({"what": "roughness", "images": images, "seed": seed, "of_real": ours / theirs})

    def natural(self) -> None:
        """Terms for natural images: accuracy, against images recovered without them, and roughness."""
        for seed in range(self.case.seeds):
            for images in NATURAL:
                for labels in ("hard", "eval"):
                    self.score(images, labels, seed)
                self.roughness(images, seed)
        first = next(iter(NATURAL))
        for images in NATURAL:
            for labels in ("hard", "eval"):
                pair = (images, labels), (first, labels)
                verdict = paired(*(self.scores[each] for each in pair))
                record = {"difference": verdict.difference, "p": verdict.p, "word": verdict.word}
                self.tell({"what": "comparison", "first": pair[0], "second": pair[1], **record})

    def tell(self, record: Mapping[str, Any]) -> None:
        """Print a record, and append it to the results."""
        print(json.dumps(record), flush=True)
        given = {name: getattr(self.options, name) for name in ("case", "data", "workers", "small")}
        given |= {"copy": f'"{self.options.copy}"'}
        data = f"{self.options.case}, {self.options.copy}"
        append(self.options.results, {**facts(NAME, given, run=self.options.run, data=data), **record})


def main() -> None:
    """The teacher, every score, comparisons, and the picture."""
    options, begun = parse(), time.monotonic()
    bench = Bench(options)
    bench.teacher()
    seeds = bench.case.seeds
    if options.case == "natural":
        bench.natural()
        draw([bench.set_of(images, 0) for images in NATURAL], bench.train, options)
        bench.tell({"what": "all", "minutes": round((time.monotonic() - begun) / 60, 1)})
        return
    for seed in range(seeds):
        for images in IMAGES:
            for labels in LABELS:
                bench.score(images, labels, seed)
    if seeds == 1:
        best = max((pair for pair in bench.scores if pair[0] != REAL), key=lambda pair: bench.scores[pair][0])
        for seed in range(1, BEST_SEEDS):
            bench.score(*best, seed)
        scores = bench.scores[best]
        bench.tell({"what": "best", "images": best[0], "labels": best[1], "accuracies": scores})
    else:
        bench.compare()
    above = [store.read_set(options.mtt)] if options.mtt is not None else []
    draw([*above, *(bench.set_of(images, 0) for images in IMAGES)], bench.train, options)
    bench.tell({"what": "all", "minutes": round((time.monotonic() - begun) / 60, 1)})


def draw(sets: Sequence[DistilledSet], train: Source, options: argparse.Namespace) -> None:
    """The images of the first seed, one kind below the other, real ones last."""
    real = distill(method("random"), train, Size(ipc=IPC), options=RunOptions(device="cpu"))
    sheets = [contact_sheet(ds, columns=IPC, side=32) for ds in (*sets, real)]
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    # a palette: images that were recovered look like noise, and do not compress
    whole.quantize(256).save(options.results.with_name(f"sre2l-{options.case}.png"), optimize=True)


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="cifar10", help="the images and how they are learned")
    parser.add_argument("--data", help="name of the images, or folder:DIR with train/ and test/; by default the case's")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data this is, in words")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument(
        "--mtt", type=Path, help="a set by trajectory matching, whose images are drawn above the others"
    )
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder for sets and scores")
    options = parser.parse_args()
    options.data = options.data or ("digits" if options.case == "natural" else options.case)
    if options.small:
        options.out /= "small"
    options.out.mkdir(parents=True, exist_ok=True)
    options.results = (options.out if options.small else RESULTS) / "sre2l_cpu.jsonl"
    options.run = now()
    return options


if __name__ == "__main__":
    main()
