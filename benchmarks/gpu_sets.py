"""The parts of `gpu.py` that make sets by the shipped presets: their scores, and a learning curve."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from gpu_steps import Record, defaults
from record import append, rounded

from dd_core import artefacts, store
from dd_core.artefacts import Resources
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import Context, MethodConfig
from dd_core.errors import OutOfResources
from dd_core.evaluation import evaluate
from dd_core.images import Source
from dd_core.methods import decode_method
from dd_core.methods.trajectory_matching.experts import ExpertsSpec
from dd_core.runner import RunOptions, Silent, Stage, distill
from dd_core.system.parallel import Workers

if TYPE_CHECKING:
    from gpu import Bench

SCENARIOS = Path(__file__).parents[1] / "scenarios" / "distill"
ASKED = 0.40  # of test images, with one image a class
PUBLISHED = {"ipc1-mtt": 0.462, "ipc1-datm": 0.469, "ipc10-mtt": 0.654}  # DATM's comparison
ONE: Mapping[str, Record] = {"mtt": {}, "datm": {"training": {"epochs": 10}, "keep": "matched"}}
TEN = "ipc10-mtt"
HELD = 0.04  # of the training images, for the learning curve
EVERY = 500  # outer iterations between its points
SMALL: Record = {"steps": 4, "syn_steps": 2, "experts": 2}
AVERAGED = 100  # outer iterations that a mean loss is of


def ipc1(bench: Bench, name: str) -> None:
    """One image a class, by the preset of one method."""
    config, protocol = preset(f"ipc1-{name}", bench, {"steps": bench.options.outer, **ONE[name]})
    ds = distil(f"ipc1-{name}", config, bench.train, Size(ipc=1), bench)
    score(f"ipc1-{name}", ds, protocol, bench.train, bench, asked=ASKED)
    draw(bench)


def ipc10(bench: Bench) -> None:
    """Ten images a class, with the learning curve."""
    config, protocol = preset(TEN, bench, {})
    rest, held = bench.train.split(HELD, seed=0)

    def look(done: int, ds: DistilledSet) -> None:
        found = evaluate(ds, train=rest, test=held, protocol=protocol, nets=1, device=bench.options.device)
        point = {"step": done, "accuracy": found.accuracy.mean, "real": found.random_real.mean}
        append(curve_path(bench), point)
        bench.write({"what": "curve", "name": TEN, **point, "nets": 1, "on": "held-out training images"})

    ds = distil(TEN, looked_at(config, 2 if bench.small else EVERY, look), rest, Size(ipc=10), bench)
    score(TEN, ds, protocol, rest, bench, points=curve(bench))
    draw(bench)


def preset(name: str, bench: Bench, changes: Record) -> tuple[MethodConfig, str]:
    """The method of a shipped scenario with fewer experts and `changes`, and its protocol."""
    table = tomllib.loads((SCENARIOS / f"cifar10-{name}.toml").read_text())
    found = merged(merged(table["method"], {"experts": bench.options.experts}), changes)
    if bench.small:
        found = merged(found, {**SMALL, "recipe": {"network": bench.scale.network}})
        found = merged(found, {"training": {"epochs": found["last_epoch"] + 1}})
    return decode_method(found, where=name), table["protocol"]


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> Record:
    """`table`, overridden by `changes`; nested tables are merged key by key."""
    return {
        **table,
        **{key: merged(table[key], new) if isinstance(new, dict) else new for key, new in changes.items()},
    }


def looked_at(config: MethodConfig, every: int, look: Callable[[int, DistilledSet], None]) -> MethodConfig:
    """The same method, whose runs pass the set so far to `look` at regular intervals of outer iterations."""

    class LookedAt(type(config)):
        def build(self, context: Context) -> Any:
            distiller: Any = super().build(context)
            step = distiller.step

            def step_and_look(index: int) -> Mapping[str, float]:
                metrics = step(index)
                if (index + 1) % every == 0:
                    look(index + 1, distiller.export())
                return metrics

            distiller.step = step_and_look
            return distiller

    return LookedAt.model_validate(config.model_dump())


class Lines(Silent):
    """A line every 100 outer iterations."""

    index = 0

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stage]:
        """Steps are counted from the one that the run is resumed at."""
        self.index = first
        with super().stage(name, total=total, first=first) as stage:
            yield stage

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        """An outer iteration is done."""
        if metrics and self.index % 100 == 0:
            print(f"step {self.index}: loss {metrics['loss']:.3f}, rate {metrics['rate']:.4g}", flush=True)
        self.index += 1

    def message(self, text: str) -> None:
        """Print a message of the runner."""
        print(text, flush=True)


def path_of(name: str, bench: Bench) -> Path:
    """The file of a set."""
    return bench.out / f"{name}.safetensors"


def losses_of(name: str, bench: Bench) -> list[float]:
    """The matching loss at each outer iteration."""
    lines = store.read_lines(path_of(name, bench).with_suffix(".run") / "metrics.jsonl")
    return [line["loss"] for line in lines]


def make_experts(name: str, config: MethodConfig, train: Source, bench: Bench) -> None:
    """Make what the method needs, a few experts at a time, so that time is looked at in between."""
    workers = Workers(count=bench.options.workers)
    begun, count, resources = time.monotonic(), 0, Resources.of([train], device=bench.options.device)
    for spec in config.needs(train, size=Size(ipc=1), seed=0).values():
        if not isinstance(spec, ExpertsSpec):
            artefacts.get(spec, resources=resources)
            continue
        while count < spec.count:
            bench.left()
            count = min(count + workers.count, spec.count)
            artefacts.get(spec.model_copy(update={"count": count}), resources=resources, workers=workers)
    minutes = round((time.monotonic() - begun) / 60, 2)
    bench.write({"what": "prepared", "name": name, "experts": count, "minutes_to_make_or_find": minutes, **defaults()})


def distil(name: str, config: MethodConfig, train: Source, size: Size, bench: Bench) -> DistilledSet:
    """Distil the set as far as there is time; the next call resumes."""
    make_experts(name, config, train, bench)
    run = RunOptions(
        device=bench.options.device,
        threads=1,
        time_limit=bench.left(),
        reporter=Lines(),
        resume_command="the same command",
    )
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        return distill(config, train, size, out=path_of(name, bench), options=run)
    except OutOfResources as error:
        losses = losses_of(name, bench)
        mean = fmean(losses[-AVERAGED:]) if losses else None
        done = {"steps": len(losses), "of": config.steps, "loss": mean, "reason": str(error)}
        bench.write({"what": "unfinished", "name": name, **done})
        raise


def score(
    name: str,
    ds: DistilledSet,
    protocol: str,
    train: Source,
    bench: Bench,
    *,
    asked: float | None = None,
    points: list[Record] | None = None,
) -> None:
    """Score a set and its twin on test images, once."""
    sha256 = store.file_sha256(path_of(name, bench))
    if any(record.get("sha256") == sha256 for record in store.read_lines(bench.results)):
        print(f"{name}: is scored already", flush=True)
        return
    bench.left()
    device = bench.options.device
    found = evaluate(ds, train=train, test=bench.test, protocol=protocol, nets=bench.nets, device=device)
    cost, losses = store.read_json(path_of(name, bench).with_suffix(".run") / "run.json"), losses_of(name, bench)
    assert ds.manifest.provenance is not None
    record: Record = {
        "what": "score",
        "name": name,
        "protocol": protocol,
        "nets": found.nets,
        "accuracy": round(found.accuracy.mean, 4),
        "std": rounded(found.accuracy.std),
        "real": round(found.random_real.mean, 4),
        "real_std": rounded(found.random_real.std),
        "verdict": asdict(found.verdict),
        "published": PUBLISHED[name],
        **({} if asked is None else {"asked": asked, "met": found.accuracy.mean >= asked}),
        "minutes": round(cost["seconds"] / 60, 1),
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "rate": ds.manifest.recipe.learning_rate,
        "loss": [round(fmean(part), 4) for part in (losses[:AVERAGED], losses[-AVERAGED:])],
        "sha256": sha256,
        "config": ds.manifest.provenance.config,
        "evaluation": found.model_dump(mode="json"),
        **defaults(),
        **({} if points is None else {"curve": points}),
    }
    bench.write(record)


# --- the picture -------------------------------------------------------------------------------------------------


def curve_path(bench: Bench) -> Path:
    """Where the learning curve is kept."""
    return bench.out / f"{TEN}.curve.jsonl"


def curve(bench: Bench) -> list[Record]:
    """The points of the learning curve; of a step that was repeated after a kill, the last point."""
    points = {point["step"]: point for point in store.read_lines(curve_path(bench))}
    return [points[step] for step in sorted(points)]


def draw(bench: Bench) -> None:
    """The sets of one image a class, and left of these the learning curve of ten, if the curve has a point yet."""
    try:
        import matplotlib

        from dd_core.distilled.pictures import contact_sheet
    except ImportError as error:
        print(f"no picture: {error}", flush=True)
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    points = curve(bench)
    panels = len(ONE) + bool(points)
    figure, every = plt.subplots(1, panels, figsize=(4 * panels, 4))
    if points:
        draw_curve(every[0], points)
    for axes, name in zip(every[-len(ONE) :], ONE, strict=True):
        axes.axis("off")
        axes.set_title(f"{name}, 1 a class", fontsize=8)
        if (path := path_of(f"ipc1-{name}", bench)).exists():
            ds = store.read_set(path)
            # without labels a sheet has no row for each class
            bare = ds.manifest.model_copy(update={"task": "self-supervised", "targets": "none"})
            axes.imshow(contact_sheet(replace(ds, labels=None, targets=None, manifest=bare), columns=5, side=64))
    figure.tight_layout()
    figure.savefig(bench.results.with_suffix(".png"), dpi=80)


def draw_curve(axes: Any, points: list[Record]) -> None:
    """The accuracy of the set and of random real images at each point."""
    for key, label in (("accuracy", "mtt, 10 a class"), ("real", "random real images")):
        axes.plot([one["step"] for one in points], [one[key] for one in points], marker=".", label=label)
    axes.set(xlabel="outer iterations", ylabel="accuracy on held-out training images")
    axes.legend()
