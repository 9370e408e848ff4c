"""Which proxy ranks the literature's ConvNets as full training does? MNIST at 16 px, on a CPU.

    python benchmarks/nas_cpu.py --data mnist|folder:DIR [--copy TEXT] [--parts ...] [--workers 2] [--small]

60 of the ConvNets (depth x width x activation x norm x pooling, width at most 128) are drawn by seed. Parts:

truth    every ConvNet trained on 4,000 images for 8 epochs under 2 seeds, scored on the test images: about an hour,
         kept in the artefact cache; the ceiling is how one seed ranks them against the other
sets     10 images a class by `dm`, and by `mtt` and `ftd` with experts of their own, from the same 4,000 images
proxies  networks trained for 3,000 image-passes on the sets, on as many real images (random, herding, k-means), on a
         random quarter of all, and at the beginning of training on all; zero-cost measures; rank averages

Trained networks are scored on 2,000 other training images; no proxy sees a test image. The last records compare `ftd`
with `mtt` over the real best 10 and 20 (Du et al. 2023, table 5: .68 and .54 against .36 and -.04).

Values are kept, and the same command goes on where it stopped. Appends to benchmarks/results/nas_cpu.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_tables import compared, draw, gist, records
from pydantic import TypeAdapter
from record import RESULTS, append, facts, now

from dd_apps.data import Data
from dd_apps.nas import measures, spaces, truth
from dd_apps.nas.kit import Kit
from dd_apps.nas.proxies.config import ProxyConfig
from dd_apps.nas.rank_task import ranked_proxies
from dd_apps.nas.scores import score_all
from dd_apps.nas.space_config import ConvNetsConfig
from dd_apps.nas.trained_truth import TrainedTruth, truth_spec
from dd_core import artefacts, store
from dd_core.artefacts import Resources
from dd_core.config import plain
from dd_core.distilled import Size
from dd_core.images import Source
from dd_core.methods import method
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions, distill
from dd_core.system.parallel import Pool, Workers
from dd_core.system.reporter import Messages

NAME = "nas-cpu"
PARTS = ("truth", "sets", "proxies")
IMAGES, VALIDATION = 6000, 1 / 3
PIXELS, MAX_WIDTH = 16, 128
TRUTH = Recipe(epochs=8, batch_size=64, learning_rate=0.02, schedule="cosine")
SEEDS = 2
PASSES = 3000
STEPS = {"batch_size": 10, "learning_rate": 0.02, "schedule": "cosine", "augmentation": "none"}
RECIPE = {"network": "convnet-3-w64"}
BY_SGD: dict[str, Any] = {"epochs": 10, "learning_rate": 0.02, "batch_size": 128, "augmentation": "auto"}
MATCHING: dict[str, Any] = {
    "steps": 300,
    "syn_steps": 20,
    "expert_epochs": 2,
    "last_epoch": 6,
    "lr_img": 100.0,
    "lr_student": 0.02,
    "lr_lr": 1e-6,
    "experts": 10,
    "recipe": RECIPE,
}
SETS: dict[str, dict[str, Any]] = {
    "dm": {"steps": 500, "recipe": RECIPE},
    "mtt": {**MATCHING, "training": BY_SGD},
    "ftd": {**MATCHING, "ema": 0.98, "training": BY_SGD | {"sharpness": {"rho": 0.01, "alpha": 0.3}}},
}
AVERAGE = ("synflow", "jacob_cov")
SMALL = {"architectures": 6, "images": 300, "steps": 3}


class Bench:
    """The command line's options, the images, and an open pool."""

    def __init__(self, options: argparse.Namespace, pool: Pool) -> None:
        self.options, self.pool = options, pool
        self.data = Data(options.data, PIXELS)
        space = self.kit().tools().space
        names = [spaces.architecture_of(space, sample) for sample in spaces.samples(space)]
        self.architectures = truth.draw(names, options.architectures, seed=options.seed)

    def kit(self, *proxies: ProxyConfig) -> Kit:
        """The kit that scores architectures."""
        space = ConvNetsConfig(max_width=32 if self.options.small else MAX_WIDTH)
        images = SMALL["images"] if self.options.small else IMAGES
        return Kit(self.data, space, proxies, images=images, validation=VALIDATION, device="cpu")

    @property
    def train(self) -> Source:
        """The images that everything learns from."""
        return self.kit().tools().images.train

    def tell(self, record: Mapping[str, Any]) -> None:
        """Print the main figures of a record, and append all of it to the results."""
        print(json.dumps(gist(record)), flush=True)
        given = {name: getattr(self.options, name) for name in ("data", "architectures", "parts", "seed", "small")}
        given |= {"copy": f'"{self.options.copy}"'}
        common = facts(NAME, given, run=self.options.run, data=f"MNIST at {PIXELS} px, {self.options.copy}")
        append(self.options.results, {**common, **record})

    # --- parts ------------------------------------------------------------------------------------------------------

    def trained(self) -> TrainedTruth:
        """The truth: every architecture trained, or found trained."""
        test = self.data.load("test")
        spec = truth_spec(self.train, test, self.kit().space, self.architectures, self.recipe, seeds=SEEDS)
        resources = Resources.of([self.train, test], device="cpu")
        made = artefacts.get(spec, resources=resources, workers=self.pool.workers, reporter=Messages(print))
        return TrainedTruth.of(made)

    @property
    def recipe(self) -> Recipe:
        """The recipe of full training."""
        return TRUTH.model_copy(update={"epochs": 1}) if self.options.small else TRUTH

    def truth(self) -> None:
        """Train every architecture, and say how one seed ranks them against the other."""
        trained = self.trained()
        ceiling = trained.ceiling()
        figures = {"accuracies": trained.accuracies, "diverged": trained.diverged, "seconds": trained.seconds}
        self.tell({"what": "truth", **figures, "recipe": plain(self.recipe), "ceiling": ceiling and plain(ceiling)})

    def sets(self) -> None:
        """Distil the sets, or find them."""
        for name, settings in SETS.items():
            small: dict[str, Any] = {"steps": SMALL["steps"]} if self.options.small else {}
            small |= {"experts": 1} if self.options.small and name != "dm" else {}
            out = self.file(name)
            out.parent.mkdir(parents=True, exist_ok=True)
            run = RunOptions(device="cpu", threads=1, workers=self.pool.workers, resume_command="the same command")
            distill(method(name, **settings | small), self.train, Size(ipc=10), out=out, options=run)
            minutes = round(store.read_json(out.with_suffix(".run") / "run.json")["seconds"] / 60, 1)
            self.tell({"what": "distilled", "name": name, "minutes": minutes})

    def file(self, name: str) -> Path:
        """The file of a set."""
        return self.options.out / f"{name}.safetensors"

    def proxies(self) -> None:
        """Score every architecture, and say how the proxies rank them."""
        trained = self.trained()
        truths, ceiling = trained.accuracies, trained.ceiling()
        configs = self.configs()
        scores = score_all(self.kit(*configs), [*truths], workers=self.pool, journal=self.options.out / "scores")
        kinds = {config.called: config.kind for config in configs}
        best = [k for k in (5, 10, 20) if k <= len(truths)]
        averages = [AVERAGE, *((f"{name}, loss", "synflow") for name in SETS)]
        proxies = ranked_proxies(kinds, scores, truths, averages=averages, best=best)
        for record in records(proxies, scores):
            self.tell(record)
        draw(self.options.results.with_suffix(".png"), proxies, ceiling=ceiling and ceiling.whole.spearman.value)
        claims = [("ftd, accuracy", "mtt, accuracy"), ("ftd, loss", "mtt, loss")]
        twins = ("random, loss", "early stopping, loss", "synflow")
        rivals = [(f"{name}, loss", twin) for name in SETS for twin in twins]
        questions = [(claims, [f"spearman@{k}" for k in best if k > 5]), (rivals, ["spearman"])]
        for pairs, statistics in questions:
            for record in compared(proxies, truths, pairs=pairs, statistics=statistics):
                self.tell(record)

    def configs(self) -> list[ProxyConfig]:
        """The proxies; those that train do so by one recipe, by accuracy and by loss."""
        like = str(self.file("dm"))
        budget = {"passes": 100 if self.options.small else PASSES, "recipe": STEPS}
        trained: list[dict[str, Any]] = [
            {"kind": "distilled", "set": str(self.file(name)), "name": name} for name in SETS
        ]
        trained += [{"kind": kind, "like": like, "name": kind} for kind in ("random", "herding", "k-means")]
        trained += [{"kind": "part", "fraction": 0.25, "like": like, "name": "random quarter"}]
        trained += [{"kind": "early-stopping", "like": like, "name": "early stopping"}]
        both = [
            {**each, **budget, "by": by, "name": f"{each['name']}, {by}"}
            for each in trained
            for by in ("accuracy", "loss")
        ]
        free = [{"kind": "zero-cost", "measure": name} for name in measures.names()]
        return TypeAdapter(list[ProxyConfig]).validate_python([*free, *both])


def main() -> None:
    """The parts that are asked for."""
    options = parse()
    with Pool(Workers(count=options.workers)) as pool:
        bench = Bench(options, pool)
        for part in options.parts:
            getattr(bench, part)()


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", default="mnist", help="mnist, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data this is, in words")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="parts to run, in this order")
    parser.add_argument("--architectures", type=int, default=60, help="number of architectures drawn from the space")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of architectures")
    parser.add_argument("--workers", type=int, default=2, help="number of processes, of one thread each")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder for sets and values")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
        options.architectures = min(options.architectures, SMALL["architectures"])
    options.results = (options.out if options.small else RESULTS) / "nas_cpu.jsonl"
    options.run = now()
    return options


if __name__ == "__main__":
    main()
