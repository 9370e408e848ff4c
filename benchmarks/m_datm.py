"""M-DATM's ablation: DATM without soft labels (M1), with a narrow range of easy epochs (M2), and with both.

    python benchmarks/m_datm.py [--data digits|cifar10|folder:DIR] [--copy TEXT] [--ipc 10] [--nets 3] [--device cpu]

The challenge's evaluator gets images only, labels them by their place and trains at its own rate, so every variant has
a student's rate that stays at 0.01. Scored under `challenge-2024`; DATM's own sets also by their soft labels
(`datm-soft`, which no submission can bring there), with how often and how surely those labels say the place's class.
A sweep over (T-, T+) with hard labels says which range is best. Paper (arXiv 2410.13311): 31.11 to 39.90 % on CIFAR-100
by M1, 7.10 to 18.31 % on Tiny-ImageNet by M1 and M2; `--network` is by default small enough for a CPU, unlike the
paper's ConvNet-3. An epoch of digits is few steps: experts take smaller mini-batches and larger steps than the paper's,
which are right for other data (`--expert-rate 0.01 --expert-batch 256`).

DATM's range of start epochs begins with epoch 0 and grows from half of its width; if it begins later by --first, as on
Tiny-ImageNet, it does not grow. The evaluator trains on the twin in the same way for every variant, so one twin of each
seed serves all variants.

Sets, scores and experts are kept; the same command goes on where it stopped. Appends to
benchmarks/results/m_datm.jsonl, and draws benchmarks/results/m_datm-DATA.png.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from record import append, facts, now

from dd_core import artefacts, datasets, store, training
from dd_core.distilled import DistilledSet, Size
from dd_core.evaluation import Evaluation, Score, evaluate, protocols
from dd_core.evaluation.verdicts import paired
from dd_core.images import LabelledImages
from dd_core.methods import method
from dd_core.runner import RunOptions, Silent, distill
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import parallel
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages
from dd_core.system.threads import computing

RESULTS = Path(__file__).parent / "results" / "m_datm.jsonl"
HARD, SOFT = "challenge-2024", "datm-soft"


@dataclass(frozen=True)
class Variant:
    """A set: whether its labels are soft, and the epochs that its students start from."""

    name: str
    soft: bool
    first: int
    last: int


def variants(options: argparse.Namespace) -> list[Variant]:
    """The ablation, and the sweep over ranges with hard labels."""
    first, wide, narrow = options.first, options.wide, options.narrow
    ablation = [
        Variant("DATM", True, first, wide),
        Variant("DATM + M1", False, first, wide),
        Variant("DATM + M1 + M2", False, 0, narrow),
        Variant("DATM + M2", True, 0, narrow),
    ]
    if options.ablation_only:
        return ablation
    known = {(one.first, one.last) for one in ablation if not one.soft}
    middle = wide // 2
    ranges = dict.fromkeys([(0, middle), (narrow, wide), (middle, wide)])
    return ablation + [Variant("range", False, *one) for one in ranges if one not in known]


@dataclass(frozen=True)
class Job:
    """One variant, distilled, and scored under a protocol."""

    variant: Variant
    seed: int
    protocol: str
    options: argparse.Namespace

    @property
    def out(self) -> Path:
        """The file of its set."""
        kind = f"{self.variant.name}-{self.variant.first}-{self.variant.last}-{self.seed}".replace(" ", "")
        return self.options.out / f"{kind}.safetensors"

    @property
    def nets(self) -> int:
        """Networks of its score."""
        return self.options.nets if self.protocol == HARD else self.options.soft_nets or self.options.nets


class Lines(Silent):
    """A line every 50 outer iterations."""

    def step(self, index: int, metrics: Mapping[str, float]) -> None:
        """Step `index` is done."""
        if index % 50 == 0:
            print(f"step {index}: {', '.join(f'{key} {value:.4g}' for key, value in metrics.items())}", flush=True)


def main() -> None:
    """Experts once, then every variant."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in vars(options).items() if key not in ("out", "copy")}
    few = "" if options.classes is None else f", the first {options.classes} classes"
    data = f"{name_of(options.data)}, {options.copy}{few}"
    common = facts("m-datm", given, run=now(), data=data, on=options.device)
    workers, train = Workers(count=options.workers), images(options.data, "train", options.classes)
    for variant in variants(options)[:1]:  # its experts serve all
        spec = configure(variant, options).needs(train, size=Size(ipc=1), seed=0)["experts"]
        resources = artefacts.Resources.of([train], device=options.device)
        artefacts.get(spec, resources=resources, workers=workers, reporter=Messages(print))
    pairs = [(variant, seed) for variant in variants(options) for seed in range(options.seeds)]
    jobs = [Job(variant, seed, HARD, options) for variant, seed in pairs]
    records: list[dict[str, Any]] = []
    # what the table is about comes first
    for several in (jobs, [Job(variant, seed, SOFT, options) for variant, seed in pairs if variant.soft]):
        for record in parallel.run(work, several, workers=workers):
            append(RESULTS, {**common, **record})
            records.append(record)
    found = summaries(records)
    for one in found:
        append(RESULTS, {**common, **one})
    draw(found, RESULTS.with_name(f"m_datm-{name_of(options.data)}.png"))


@cache
def images(data: str, split: str, classes: int | None) -> LabelledImages:
    """Images of the first so many classes in order, or of all. Raises ValueError where they do not fit into memory."""
    source = datasets.load(data, split=split)
    if not isinstance(source, LabelledImages):
        raise ValueError(f"{source.name}: does not fit into memory")
    return source if classes is None else source.of_classes(range(classes))


def name_of(data: str) -> str:
    """A data set's name, or its folder's."""
    return Path(data.removeprefix("folder:")).name


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description="M-DATM's ablation")
    parser.add_argument("--data", default="digits", help="digits, cifar10, ... or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data this is, in words")
    parser.add_argument("--classes", type=int, help="number of classes, the first in order; none: all")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...; on a GPU one worker is fastest")
    parser.add_argument("--network", default="convnet-w32", help="experts, students and the evaluator's networks")
    parser.add_argument("--ipc", type=int, default=10, help="images a class")
    parser.add_argument("--first", type=int, default=0, help="first epoch (T-) of DATM's range")
    parser.add_argument("--wide", type=int, default=30, help="last epoch (T+) of DATM's range")
    parser.add_argument("--narrow", type=int, default=10, help="last epoch (T+) of M2's range")
    parser.add_argument("--experts", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=40, help="epochs of an expert, whose last logits are labels")
    parser.add_argument("--expert-rate", type=float, default=0.05, help="learning rate of an expert (paper: 0.01)")
    parser.add_argument("--expert-batch", type=int, default=64, help="mini-batch of an expert (paper: 256)")
    parser.add_argument("--steps", type=int, default=300, help="outer iterations")
    parser.add_argument("--syn-steps", type=int, default=20, help="inner steps (N)")
    parser.add_argument("--batch-syn", type=int, help="synthetic images in an inner step; none: all")
    parser.add_argument("--lr-img", type=float, default=100.0)
    parser.add_argument("--lr-label", type=float, default=5.0)
    parser.add_argument("--nets", type=int, default=3, help="networks of each score, as the challenge has it")
    parser.add_argument("--soft-nets", type=int, help="networks of a score by soft labels; none: as --nets")
    parser.add_argument("--seeds", type=int, default=3, help="sets of each variant")
    parser.add_argument("--ablation-only", action="store_true", help="leave out the sweep over ranges")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-m-datm"), help="folder for the sets")
    return parser.parse_args()


def configure(variant: Variant, options: argparse.Namespace) -> Any:
    """The method of a variant: all of them are `datm` but for what the ablation changes."""
    # the sequential growth of DATM, where there is a wide range to grow to
    grows = variant.name.startswith("DATM") and variant.last == options.wide and not options.first
    return method(
        "datm",
        steps=options.steps,
        syn_steps=options.syn_steps,
        batch_syn=options.batch_syn,
        lr_img=options.lr_img,
        lr_label=options.lr_label,
        lr_student=0.01,
        lr_lr=0.0,
        soft_labels=variant.soft,
        keep="all",  # one set of experts for every range
        first_epoch=variant.first,
        last_epoch=variant.last,
        range_start=options.wide // 2 if grows else None,
        range_growth=max(1, options.steps // 3),
        experts=options.experts,
        training={
            "epochs": options.epochs,
            "learning_rate": options.expert_rate,
            "batch_size": options.expert_batch,
        },
        recipe={"network": options.network},
    )


def work(job: Job) -> dict[str, Any]:
    """Distil one variant, unless that is done, and score it."""
    options, variant = job.options, job.variant
    train = images(options.data, "train", options.classes)
    how = RunOptions(device=options.device, threads=1, reporter=Lines(), resume_command="the same command")
    config = configure(variant, options)
    ds = distill(config, train, Size(ipc=options.ipc), seed=job.seed, out=job.out, options=how)
    assert ds.manifest.provenance is not None
    folder = job.out.with_suffix(".run")
    metrics = store.read_lines(folder / "metrics.jsonl")
    found = scored(ds, job, train)
    record: dict[str, Any] = {
        "what": "set",
        "name": variant.name,
        "soft": variant.soft,
        "range": [variant.first, variant.last],
        "seed": job.seed,
        "seconds": store.read_json(folder / "run.json")["seconds"],
        "loss": [statistics.fmean(line["loss"] for line in some) for some in (metrics[:50], metrics[-50:])],
        "taken": statistics.fmean(line["taken"] for line in metrics),  # outer iterations whose step was taken
        "config": ds.manifest.provenance.config,
        **(labels_of(ds) if variant.soft else {}),
        "protocol": job.protocol,
        "evaluation": found.model_dump(mode="json"),
    }
    gist = {key: record[key] for key in ("seconds", "loss", "taken", "labels_elsewhere") if key in record}
    print(variant.name, job.protocol, gist, found.accuracy.per_network, found.random_real.per_network, flush=True)
    return record


def scored(ds: DistilledSet, job: Job, train: LabelledImages) -> Evaluation:
    """The set's score beside that of the twin, as `evaluate` has them, or as they are kept."""
    options, test = job.options, images(job.options.data, "test", job.options.classes)
    kept = job.out.with_suffix(f".{job.protocol}.json")
    twin = options.out / f"twin-{job.seed}.{job.protocol}.json"
    if kept.exists():
        return Evaluation.model_validate_json(kept.read_text())
    if twin.exists():
        values = accuracies(ds, job, train, test)
        found = Evaluation.model_validate_json(twin.read_text())
        found = found.model_copy(update={"accuracy": Score.of(values), "bytes": ds.nbytes})
    else:
        found = evaluate(
            ds,
            train=train,
            test=test,
            network=options.network,
            protocol=job.protocol,
            nets=job.nets,
            seed=job.seed,
            device=options.device,
        )
        store.write_json(twin, found.model_dump(mode="json"))
    store.write_json(kept, found.model_dump(mode="json"))
    return found


def accuracies(ds: DistilledSet, job: Job, train: LabelledImages, test: LabelledImages) -> list[float]:
    """What `evaluate` finds for the set's own networks, without the twin."""
    protocol = protocols.load(job.protocol)
    seen = protocol.prepare(ds, train=train)
    recipe = protocol.recipe(seen.manifest.recipe, source_name=train.name)
    recipe = training.for_network(recipe, job.options.network)
    data, device = training.training_data(seen, recipe), devices.resolve(job.options.device)
    found: list[float] = []
    with computing(1):
        for index in range(job.nets):
            streams = Streams(Streams(job.seed).child("network", index).seed)
            model = training.fit(data, recipe.network, recipe, streams=streams, device=device)
            found.append(training.accuracy(model, test, seen.input_form(), device=device))
    return found


def labels_of(ds: DistilledSet) -> dict[str, float]:
    """How often the learned labels say another class than the place does, and how much they give to the place's."""
    assert ds.targets is not None
    assert ds.labels is not None
    shifted = ds.targets - ds.targets.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    own = probabilities[np.arange(len(ds)), ds.labels]
    return {
        "labels_elsewhere": float((probabilities.argmax(1) != ds.labels).mean()),
        "probability_of_the_place": float(own.mean()),
    }


def summaries(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each variant and protocol the mean and std over sets (over networks, of a single one), and its gain on DATM.

    The gain is in points, under the same protocol. `verdict` is a paired t-test over sets, by their seeds; one draw of
    experts serves all sets, so the test says nothing of other experts.
    """
    kinds: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in records:
        kinds.setdefault((one["name"], *one["range"], one["protocol"]), []).append(one)
    found = [
        {"what": "summary", "name": name, "range": ends, "protocol": protocol}
        | {who: over_sets([one["evaluation"][who] for one in several]) for who in ("accuracy", "random_real")}
        for (name, *ends, protocol), several in kinds.items()
    ]
    means = {kind: [one["evaluation"]["accuracy"]["mean"] for one in several] for kind, several in kinds.items()}
    datm = {kind[-1]: scores for kind, scores in means.items() if kind[0] == "DATM"}
    for one in found:
        kind = (one["name"], *one["range"], one["protocol"])
        verdict = paired(means[kind], datm[one["protocol"]])
        # + 0.0: no gain is not "-0.0"
        one |= {"gain": round(100 * verdict.difference, 1) + 0.0, "verdict": asdict(verdict)}
    return found


def over_sets(scores: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean and std of the sets' means; the networks' std where there is one set."""
    means = [score["mean"] for score in scores]
    return {"mean": statistics.fmean(means), "std": statistics.stdev(means) if len(means) > 1 else scores[0]["std"]}


def draw(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Two bars for each variant and protocol."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.45 * len(found) + 1.2), layout="tight")
    axes = FigureCanvasAgg(figure).figure.subplots()
    names = [f"{one['name']} [{one['range'][0]}, {one['range'][1]}) {one['protocol']}" for one in found]
    for who, offset in (("accuracy", -0.2), ("random_real", 0.2)):
        places = [index + offset for index in range(len(found))]
        # one network of one set has no deviation, and no bar for it
        means, stds = ([100 * (one[who][key] or 0.0) for one in found] for key in ("mean", "std"))
        axes.barh(places, means, height=0.4, xerr=stds, label="distilled" if who == "accuracy" else "random real")
    axes.set_yticks(range(len(found)), names, fontsize=7)
    axes.invert_yaxis()
    least = min(one[who]["mean"] - (one[who]["std"] or 0.0) for one in found for who in ("accuracy", "random_real"))
    axes.set_xlim(max(0.0, 100 * least - 5), min(100.0, axes.get_xlim()[1]))
    axes.set_xlabel("accuracy (%)")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
