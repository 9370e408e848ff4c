"""KRR-ST for transfer on a CPU, against no pre-training and random real images with the same teacher's features.

    python benchmarks/transfer_cpu.py --part mnist|teachers|tried|bilevel|backbones|datafree --data folder:DIR [--small]

mnist      source: classes 0 to 4 of MNIST without labels; 100 and 600 images (2 %) of KRR-ST, as many random real ones
           with the teacher's features, and no pre-training, of a ConvNet 32 wide with batch norm. Targets: classes 5 to
           9, and the digits of scikit-learn. Probe and fine-tuning.
tried      the same with 100 images and a probe, one setting of KRR-ST changed at a time; terms for natural images too
teachers   Barlow Twins, SimCLR and BYOL on 10,000 of these images: probe and neighbours of their features on classes 5
           to 9, and how much of the space of features the targets of KRR-ST and of random real images cover
bilevel    an outer step in closed form and through the steps of training: seconds and peak memory, one process each
backbones  source CIFAR-10 without labels: images distilled with a ConvNet, learned by backbones of timm
datafree   a student learns the outputs of a classifier of classes 5 to 9 on images of classes 0 to 4 (100 of KRR-ST, as
           many random real ones) or on Gaussian noise; the student never sees an image of classes 5 to 9

Everything is kept in --out and in the cache; the same command goes on where it stopped. Nothing is chosen on test
images: each part reports every setting that was tried. Appends to benchmarks/results/transfer_cpu.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, append, facts, now
from transfer_spaces import covered, draw_spaces

from dd_apps.transfer.config import TransferScenario
from dd_apps.transfer.data_free import DataFree, teach_student
from dd_apps.transfer.task import run_task
from dd_core import artefacts, datasets
from dd_core.artefacts import Resources
from dd_core.config import decode, plain
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.evaluation.verdicts import new_draw, paired
from dd_core.images import LabelledImages
from dd_core.methods import method
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages
from dd_core.training import accuracy
from dd_core.training import train as train_on
from dd_core.training.feature_quality import linear_probe, nearest_neighbours
from dd_core.training.feature_teacher_config import FeatureTeacherConfig
from dd_core.training.feature_teachers import FeatureTeacherSpec, backbone_of, features_of, form_of_teacher

NAME = "transfer-cpu"
NETWORK = "convnet-w32-batchnorm"
TEACHER: dict[str, Any] = {"epochs": 6, "warmup": 1, "batch_size": 256, "projector": (512, 512)}
KRR: dict[str, Any] = {
    "name": "krr-st",
    "steps": 1000,
    "batch_real": 256,
    "online_steps": 100,
    "recipe": {"network": NETWORK},
    "teacher": TEACHER,
}
PASSES = 30_000  # images of a set that a backbone is pre-trained on, over all epochs
FRACTIONS = [0.01, 0.05, 0.1]
RANDOM = "random real, teacher's features"
RANDOM_REAL, NOISE = "random real", "Gaussian noise"  # what a student is shown beside KRR-ST's images
TRIED: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "pool as-shipped": {"pool": "as-shipped"},
    "inputs as-shipped": {"inputs": "as-shipped"},
    "targets from noise": {"initial_targets": "noise"},
    "ridge 1e-3": {"ridge": 1e-3},
    "rate 1e-2": {"learning_rate": 1e-2},
    "three times the steps": {"steps": 3000},
    "bounded pixels": {"bounded": True},
    "total variation 1e-4": {"tv": 1e-4},
    "norm 1e-3": {"l2": 1e-3},
}
OBJECTIVES = ("barlow-twins", "simclr", "byol")
BACKBONES = (
    "timm:resnet10t",
    "timm:mobilenetv3_small_050",
    "timm:mobilenetv4_conv_small_050",
    "timm:efficientnet_lite0",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
    "timm:regnetx_002",
    "timm:ghostnet_050",
)
SMALL = {"steps": 3, "online_steps": 2, "networks": 2}


class Bench:
    """The command line's options."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.run = RunOptions(
            device="cpu",
            workers=Workers(count=options.workers),
            threads=1,
            reporter=Messages(print),
            resume_command="the same command",
        )

    # --- scenarios --------------------------------------------------------------------------------------------------

    def krr(self, **changes: Any) -> dict[str, Any]:
        """The method's table."""
        small = {**SMALL, "teacher": {**TEACHER, "epochs": 1, "warmup": 0}} if self.options.small else {}
        return {**KRR, **small, **changes}

    def scenario(self, name: str, **fields: Any) -> None:
        """Run a scenario, and keep its scores and comparisons."""
        begun = time.monotonic()
        table = {
            "data": self.options.data,
            "fractions": FRACTIONS,
            "seeds": 2 if self.options.small else self.options.seeds,
            "workers": self.options.workers,
            **fields,
        }
        outcome = run_task(decode(TransferScenario, table), self.options.out / name, self.run)
        for section in outcome.tables:
            print(section.title)
            for row in section.rows:
                print("  ", row)
        details = outcome.details
        compact = [
            {
                "row": s["row"],
                "backbone": s["backbone"],
                "seed": s["seed"],
                "target": s["target"],
                "values": _accuracies(s),
            }
            for s in details["scores"]
        ]
        minutes, said = round((time.monotonic() - begun) / 60, 1), without_paths(table)
        self.tell(
            {
                "what": name,
                "scores": compact,
                "differences": details["differences"],
                "minutes": minutes,
                "table": said,
            }
        )

    def mnist(self) -> None:
        """KRR-ST against no pre-training and against random real images."""
        sizes = (100,) if self.options.small else (100, 600)
        rows: list[dict[str, Any]] = [{"kind": "none"}]
        for count in sizes:
            recipe = {"epochs": self._epochs(count)}
            name = f"krr-{count}"
            rows += [
                {"kind": "set", "set": name, "recipe": recipe},
                {"kind": "random", "like": name, "targets": "features", "name": f"{count} {RANDOM}", "recipe": recipe},
            ]
        steps = {100: 1000, 600: 300}
        sets = {f"krr-{n}": {"images": n, "labels": False, "method": self.krr(**self._steps(steps[n]))} for n in sizes}
        self.scenario("mnist", classes=list(range(5)), rows=rows, sets=sets, **self._mnist_targets())

    def tried(self) -> None:
        """One setting at a time."""
        recipe = {"epochs": self._epochs(100)}
        names = {name: f"krr-{place}" for place, name in enumerate(TRIED)}
        sets = {
            names[name]: {"images": 100, "labels": False, "method": self.krr(**changes)}
            for name, changes in TRIED.items()
        }
        rows: list[dict[str, Any]] = [
            {"kind": "set", "set": names[name], "name": name, "recipe": recipe} for name in TRIED
        ]
        first = names["as it is"]
        rows += [{"kind": "none"}]
        rows += [{"kind": "random", "like": first, "targets": "features", "name": RANDOM, "recipe": recipe}]
        targets = self._mnist_targets()
        targets["scores"] = targets["scores"][:1]
        targets["targets"] = targets["targets"][:1]
        self.scenario("tried", classes=list(range(5)), rows=rows, sets=sets, **targets)

    def backbones(self) -> None:
        """A set that is distilled with one network, and learned by many backbones."""
        recipe = {"epochs": 20}
        krr = self.krr(recipe={"network": "convnet-batchnorm"}, steps=SMALL["steps"] if self.options.small else 300)
        krr["teacher"] = {**krr["teacher"], "network": "convnet-batchnorm"}
        sets = {"krr-100": {"images": 100, "labels": False, "method": krr}}
        rows: list[dict[str, Any]] = [
            {"kind": "none"},
            {"kind": "set", "set": "krr-100", "recipe": recipe},
            {"kind": "random", "like": "krr-100", "targets": "features", "name": RANDOM, "recipe": recipe},
        ]
        target = {"data": self.options.data, "train": 5000, "test": 2000, "name": "CIFAR-10"}
        self.scenario(
            "backbones",
            images=10_000,
            rows=rows,
            sets=sets,
            targets=[target],
            backbones=[*(BACKBONES[:2] if self.options.small else BACKBONES)],
            scores=[{"kind": "linear-probe"}],
        )

    def _mnist_targets(self) -> dict[str, Any]:
        count = {"train": 200, "test": 100} if self.options.small else {"train": 5000, "test": 2000}
        target = {"data": self.options.data, "classes": list(range(5, 10)), **count, "name": "MNIST, classes 5 to 9"}
        fine = {"kind": "fine-tune", "steps": 3 if self.options.small else 100, "batch_size": 64, "crop": 2}
        targets = [target, {"data": "digits", "name": "digits"}]
        return {"targets": targets, "scores": [{"kind": "linear-probe"}, fine], "backbones": [NETWORK]}

    def _epochs(self, images: int) -> int:
        return 2 if self.options.small else PASSES // images

    def _steps(self, count: int) -> dict[str, Any]:
        return {} if self.options.small else {"steps": count}

    # --- teachers ---------------------------------------------------------------------------------------------------

    def teachers(self) -> None:
        """Three objectives on the same images, and the coverage of their features."""
        train, test = (datasets.load(self.options.data, split=split) for split in ("train", "test"))
        assert isinstance(train, LabelledImages)
        assert isinstance(test, LabelledImages)
        whole = train.of_classes(range(5)).without_labels()
        count = 500 if self.options.small else 10_000
        source = whole.subset(some(whole, count))
        known, tested = (images.of_classes(range(5, 10)) for images in (train, test))
        known = known.subset(some(known, 5000))
        spaces: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        for objective in OBJECTIVES:
            begun = time.monotonic()
            epochs = {"epochs": 1, "warmup": 0} if self.options.small else {"epochs": 15}
            settings = {**TEACHER, **epochs, "objective": objective, "network": NETWORK}
            config = FeatureTeacherConfig.model_validate(settings)
            resources = Resources.of([source], device="cpu")
            teacher = artefacts.get(
                FeatureTeacherSpec.of(source, config), resources=resources, reporter=Messages(print)
            )
            backbone, form = backbone_of(teacher), form_of_teacher(teacher)
            options = {"device": torch.device("cpu")}
            ours, theirs = (
                features_of(backbone, images, form, rows=torch.arange(len(images)), **options)
                for images in (known, tested)
            )
            probe = linear_probe(ours, known.labels).labels_of(theirs)
            nearest = nearest_neighbours(ours, known.labels, theirs, k=20, temperature=0.07)
            right = {"probe": probe, "knn": nearest}
            scores = {name: (labels == tested.labels).double().mean().item() for name, labels in right.items()}
            made = distill(
                method(**self.krr(teacher=settings, steps=3 if self.options.small else 500)),
                source,
                Size(images=100),
                out=self.options.out / f"teachers-{objective}.safetensors",
                options=self.run,
            )
            every = features_of(backbone, source, form, rows=torch.arange(len(source)), **options)
            assert made.targets is not None
            spaces[objective] = every, every[some(source, 100)], torch.tensor(made.targets)
            coverage = {
                "krr-st": covered(every, torch.tensor(made.targets)),
                "random real": covered(every, every[some(source, 100)]),
            }
            minutes = round((time.monotonic() - begun) / 60, 1)
            loss = teacher.part(0)[1]["loss"]
            self.tell(
                {
                    "what": "teacher",
                    "objective": objective,
                    "accuracy": scores,
                    "loss": loss,
                    "coverage": coverage,
                    "images": len(source),
                    "epochs": config.epochs,
                    "minutes": minutes,
                }
            )
        draw_spaces(spaces, self.options.results.with_name("transfer-coverage.png"))

    # --- distillation of a classifier without its data -------------------------------------------------------------

    def datafree(self) -> None:
        """Students of one classifier, by the images that they learn on; tests are paired over the students' seeds."""
        begun, device, small = time.monotonic(), torch.device("cpu"), self.options.small
        train, test = (datasets.load(self.options.data, split=split) for split in ("train", "test"))
        assert isinstance(train, LabelledImages)
        assert isinstance(test, LabelledImages)
        source = train.of_classes(range(5))
        known, tested = (images.of_classes(range(5, 10)) for images in (train, test))
        known = known.subset(some(known, 500 if small else 10_000))
        recipe = Recipe(network=NETWORK, learning_rate=0.01, epochs=1 if small else 5, batch_size=64)
        shown = distill(method("random"), known, Size.of(known.labels.bincount().tolist()), options=self.run)
        classifier = train_on(shown, recipe=recipe, device="cpu")
        form = shown.input_form()
        teacher = accuracy(classifier, tested, form, device=device)
        krr = distill(
            method(**self.krr()),
            source.without_labels(),
            Size(images=100),
            out=self.options.out / "datafree-krr.safetensors",
            options=self.run,
        )
        epochs = 2 if small else PASSES // 100
        settings = DataFree(epochs=epochs, batch_size=50, learning_rate=1e-3, augmentation="color_crop_scale_rotate")
        scores: dict[str, list[float]] = {"krr-100": [], RANDOM_REAL: [], NOISE: []}
        for seed in range(2 if small else self.options.seeds):
            real = distill(method("random"), source, Size(images=100), seed=seed, options=self.run)
            for name, ds in {"krr-100": krr, RANDOM_REAL: real, NOISE: real}.items():
                own = settings.model_copy(update={"images": "noise"}) if name == NOISE else settings
                student = teach_student(NETWORK, classifier, ds, form=form, settings=own, seed=seed, device="cpu")
                scores[name].append(accuracy(student, tested, form, device=device))
        ours = scores["krr-100"]  # of one set, and random images are drawn for each seed
        tests = {RANDOM_REAL: new_draw(ours, scores[RANDOM_REAL]), NOISE: paired(ours, scores[NOISE])}
        differences = {name: {"word": v.word, "mean": v.difference, "p": v.p} for name, v in tests.items()}
        minutes = round((time.monotonic() - begun) / 60, 1)
        self.tell(
            {
                "what": "datafree",
                "teacher": teacher,
                "accuracies": scores,
                "differences": differences,
                "settings": plain(settings),
                "minutes": minutes,
            }
        )

    # --- what an outer step costs -----------------------------------------------------------------------------------

    def bilevel(self) -> None:
        """The closed form and the gradient through training, one process each."""
        for name in ("krr", "unrolled full", "unrolled adjoint"):
            command = [sys.executable, __file__, "--part", "bilevel", "--data", self.options.data, "--work", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            self.tell({"what": "bilevel", "inner": name, **json.loads(done.stdout.splitlines()[-1])})

    def work(self, name: str) -> None:
        """Five outer steps in this process: CPU seconds each, and the peak of memory in excess."""
        inner, _, gradient = name.partition(" ")
        changes = {"inner": inner, "unrolled_steps": 100, "networks": 1, "online_steps": 1}
        changes |= {"gradient": gradient} if gradient else {}
        train = datasets.load(self.options.data, split="train")
        assert isinstance(train, LabelledImages)
        source = train.of_classes(range(5))
        source = source.subset(some(source, 2000))
        network = "convnet-w32"  # without batch norm, which cannot be unrolled
        config = method(**{**KRR, **changes, "objective": "labels", "recipe": {"network": network}})
        torch.set_num_threads(1)
        distiller = config.build(Context(source, Size(images=100), Streams(0), torch.device("cpu")))
        before, first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        distiller.step(0)  # with what is measured and grown up once
        begun = time.process_time()
        for index in range(1, 4):
            distiller.step(index)
        seconds = (time.process_time() - begun) / 3
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        print(json.dumps({"seconds": round(seconds, 3), "first": round(begun - first, 3), "bytes": peak}))

    def tell(self, record: Mapping[str, Any]) -> None:
        """Print a record, and append it to the results."""
        print(json.dumps({name: value for name, value in record.items() if name != "scores"})[:2000], flush=True)
        given = {name: getattr(self.options, name) for name in ("part", "data", "workers", "seeds", "small")}
        given |= {"copy": f'"{self.options.copy}"'}
        append(self.options.results, {**facts(NAME, given, run=self.options.begun, data=self.options.copy), **record})


def without_paths(value: Any) -> Any:
    """`value` with `folder:DIR` in place of every folder of this machine."""
    if isinstance(value, Mapping):
        return {name: without_paths(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    return "folder:DIR" if isinstance(value, str) and value.startswith("folder:") else value


def some(images: LabelledImages, count: int) -> torch.Tensor:
    """Rows of `count` random images, the same in every run."""
    return torch.randperm(len(images), generator=Streams(0).generator("rows"))[:count]


def _accuracies(score: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        kind: {fraction: round(value["accuracy"], 5) for fraction, value in by_fraction.items()}
        for kind, by_fraction in score["values"].items()
    }


def main() -> None:
    """One part."""
    options = parse()
    bench = Bench(options)
    if options.work:
        bench.work(options.work)
        return
    getattr(bench, options.part)()


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `begun` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parts = ("mnist", "tried", "teachers", "bilevel", "backbones", "datafree")
    parser.add_argument("--part", choices=parts, default="mnist")
    parser.add_argument("--data", default="mnist", help="name of the images, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data this is, in words")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder of all that is kept")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
    options.out.mkdir(parents=True, exist_ok=True)
    options.results = (options.out if options.small else RESULTS) / "transfer_cpu.jsonl"
    options.begun = now()
    return options


if __name__ == "__main__":
    main()
