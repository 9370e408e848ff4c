"""FTD against MTT on subsets of ten classes: do flat experts make better sets, and by how much?

    python benchmarks/ftd_subset.py --data folder:DIR [--copy TEXT] [--subsets 4] [--ipc 10] [--minutes 9] [--small]

Subset i has the classes 10i to 10i+9, in order. Both methods do all of their work anew on each subset, by seed i
(experts, set and networks; expert j starts from the same weights whatever the method), so the subsets are the pairs of
the test. Settings are those of the scenario `imagenette-ipc10-mtt` (Cazenavette et al. 2022, subsets at 128 px; also
for one image a class), except ConvNet-3 for 32 px, fewer experts and outer iterations, and mini-batches by which an
epoch of 5,000 images has as many steps as in the paper. FTD adds the paper's GSAM (rho 0.01, alpha 1, as on its
subsets) and its average over outer iterations, shortened as the runs are. Published (Du et al. 2023): up to 4.7 points
more than MTT on subsets at 128 px. Scored on test images under `mtt-1000`, last epoch, beside the random-real twin.

Sets, scores and experts are kept; the same command goes on where it stopped. After --minutes no set is begun, and
verdicts are of the subsets that are done. Appends to benchmarks/results/ftd_subset.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from gpu_sets import SCENARIOS, Lines
from gpu_steps import Record, defaults
from record import RESULTS, append, facts, now

from dd_core import artefacts, datasets, store
from dd_core.distilled import Size
from dd_core.distiller import MethodConfig
from dd_core.errors import Diverged
from dd_core.evaluation import evaluate
from dd_core.evaluation.verdicts import paired
from dd_core.images import LabelledImages
from dd_core.methods import decode_method
from dd_core.runner import RunOptions, distill

NAME = "ftd_subset"
METHODS = ("mtt", "ftd")
CLASSES = 10
SHARPNESS = {"rho": 0.01, "alpha": 1.0}
AVERAGED = 50  # outer iterations that a mean loss is of


def main() -> None:
    """Each size, subset and method; then the verdicts."""
    options = parse()
    deadline, write = time.monotonic() + 60 * options.minutes, partial(told, options)
    found: dict[tuple[int, str], list[Record]] = {}
    for ipc, subset, name in product(options.ipc, range(options.subsets), METHODS):
        if time.monotonic() > deadline:
            print("the minutes are over; the same command goes on", flush=True)
            break
        try:
            record = made(name, subset, ipc, options)
        except Diverged as error:
            write({"what": "diverged", "name": name, "subset": subset, "ipc": ipc, "reason": str(error)})
            continue
        write(record)
        found.setdefault((ipc, name), []).append(record)
    for ipc in options.ipc:
        if all((ipc, name) in found for name in METHODS):
            write(summary(ipc, *(found[ipc, name] for name in METHODS)))


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", default="cifar100", help="cifar100, or folder:DIR with train/ and test/ or val/")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data this is, in words")
    parser.add_argument("--device", default="cuda", help="cuda, cpu, ...")
    parser.add_argument("--minutes", type=float, default=9, help="minutes after which no set is begun")
    parser.add_argument("--subsets", type=int, default=4, help="number of subsets of ten classes")
    parser.add_argument("--ipc", type=int, nargs="+", default=[10], help="images a class")
    parser.add_argument("--network", default="convnet-3", help="network of experts, students and scores")
    parser.add_argument("--experts", type=int, default=5, help="experts of each method and subset (paper: 100)")
    parser.add_argument("--expert-batch", type=int, default=128, help="real images in a mini-batch (paper: 256)")
    parser.add_argument("--outer", type=int, default=150, help="outer iterations (paper: 5000)")
    parser.add_argument("--nets", type=int, default=3, help="number of networks for each score")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-ftd-subset"), help="folder for the sets")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
        options.network, options.experts, options.outer, options.nets = "convnet-1-w4", 2, 4, 2
        options.expert_batch = 8
    options.results = (options.out if options.small else RESULTS) / f"{NAME}.jsonl"
    options.run = now()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def told(options: argparse.Namespace, record: Record) -> None:
    """Print the main figures of a record, and append all of it to the results."""
    print({key: value for key, value in record.items() if key not in ("config", "evaluation", "tf32")}, flush=True)
    names = ("data", "device", "subsets", "ipc", "network", "experts", "expert_batch", "outer", "nets", "small")
    given = {name: getattr(options, name) for name in names}
    data = f"{Path(options.data.removeprefix('folder:')).name}, {options.copy}, subsets of {CLASSES} classes"
    found = facts(NAME.replace("_", "-"), given, run=options.run, data=data, on=options.device)
    append(options.results, {**found, **record})


@cache
def images(data: str, split: str, subset: int) -> LabelledImages:
    """The images of one subset. Raises ValueError where the data do not fit into memory."""
    source = datasets.load(data, split=split)
    if not isinstance(source, LabelledImages):
        raise ValueError(f"{source.name}: does not fit into memory")
    return source.of_classes(range(CLASSES * subset, CLASSES * (subset + 1)))


def configure(name: str, subset: int, options: argparse.Namespace) -> MethodConfig:
    """A method on a subset: FTD is MTT but for its experts, and an average whose decay is the method's default."""
    table: Record = tomllib.loads((SCENARIOS / "imagenette-ipc10-mtt.toml").read_text())["method"]
    how: Mapping[str, Any] = {"batch_size": options.expert_batch}
    table |= {
        "name": name,
        "steps": options.outer,
        "experts": options.experts,
        "experts_seed": subset,
        "training": {**table["training"], **how, "sharpness": SHARPNESS if name == "ftd" else None},
        "recipe": {"network": options.network},
    }
    return decode_method(table, where=name)


def made(name: str, subset: int, ipc: int, options: argparse.Namespace) -> Record:
    """The record of one method on one subset, with the scores of set and twin: made, or kept from an earlier run."""
    out = options.out / f"{name}-{subset}-{ipc}.safetensors"
    kept = out.with_suffix(".score.json")
    if kept.exists():
        return store.read_json(kept)
    train, test = (images(options.data, split, subset) for split in ("train", "test"))
    config = configure(name, subset, options)
    begun = time.monotonic()
    for spec in config.needs(train, size=Size(ipc=ipc), seed=subset).values():
        artefacts.get(spec, resources=artefacts.Resources.of([train], device=options.device))
    experts = time.monotonic() - begun
    run = RunOptions(device=options.device, threads=1, reporter=Lines(), resume_command="the same command")
    ds = distill(config, train, Size(ipc=ipc), seed=subset, out=out, options=run)
    protocol = "mtt-1000"
    found = evaluate(
        ds, train=train, test=test, protocol=protocol, nets=options.nets, seed=subset, device=options.device
    )
    folder = out.with_suffix(".run")
    losses = [line["loss"] for line in store.read_lines(folder / "metrics.jsonl")]
    assert ds.manifest.provenance is not None
    record: Record = {
        "what": "set",
        "name": name,
        "subset": subset,
        "classes": list(ds.classes),
        "ipc": ipc,
        "protocol": protocol,
        "nets": found.nets,
        "accuracy": round(found.accuracy.mean, 4),
        "real": round(found.random_real.mean, 4),
        "loss": [round(statistics.fmean(part), 4) for part in (losses[:AVERAGED], losses[-AVERAGED:])],
        "rate": ds.manifest.recipe.learning_rate,
        "seconds_to_make_or_find_experts": round(experts, 1),
        "seconds": store.read_json(folder / "run.json")["seconds"],
        "verdict": asdict(found.verdict),
        "config": ds.manifest.provenance.config,
        "evaluation": found.model_dump(mode="json"),
        **defaults(),
    }
    store.write_json(kept, record)
    return record


def summary(ipc: int, mtt: Sequence[Record], ftd: Sequence[Record]) -> Record:
    """Paired t-tests over the subsets that both methods have: FTD against MTT, and each against its twin."""
    both = {line["subset"] for line in mtt} & {line["subset"] for line in ftd}
    kept = {name: [one for one in lines if one["subset"] in both] for name, lines in (("mtt", mtt), ("ftd", ftd))}
    ours, twins = ({name: [one[key] for one in kept[name]] for name in kept} for key in ("accuracy", "real"))
    return {
        "what": "summary",
        "ipc": ipc,
        "subsets": sorted(both),
        **{name: {"accuracy": ours[name], "real": twins[name]} for name in METHODS},
        "ftd_over_mtt": asdict(paired(ours["ftd"], ours["mtt"])),
        **{f"{name}_over_twin": asdict(paired(ours[name], twins[name])) for name in METHODS},
    }


if __name__ == "__main__":
    main()
