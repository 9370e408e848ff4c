"""The parts `methods` and `repeats` of `gpu.py`: an outer step of each method, and whether runs agree byte by byte.

Nothing here writes: `methods` and `repeats` yield records.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gpu_steps import Record, defaults, excess, reason, timed
from torch import Tensor

from dd_core.distilled import Size
from dd_core.distiller import Context, Distiller, MethodConfig
from dd_core.evaluation import evaluate
from dd_core.images import LabelledImages
from dd_core.methods import decode_method, method, names
from dd_core.methods.trajectory_matching.experts import trajectory
from dd_core.runner import RunOptions, distill

SCENARIOS = Path(__file__).parents[1] / "scenarios" / "distill"
IPC = (1, 10, 50)
MATCHING = ("mtt", "ftd", "datm", "tesla")
# One expert with few epochs: from which epoch a student starts does not change what an outer step costs.
SHORT: Record = {"experts": 1, "first_epoch": 0, "last_epoch": 1, "range_start": None, "keep": "matched"}


def preset(name: str, ipc: int, network: str) -> MethodConfig:
    """The published settings of CIFAR-10, with one short expert for methods that need experts.

    Where no scenario has settings of FTD or TESLA, those of MTT are used.
    """
    if name in MATCHING:
        scenario = SCENARIOS / f"cifar10-ipc{ipc}-{name}.toml"
        if not scenario.exists():
            scenario = SCENARIOS / f"cifar10-ipc{ipc}-mtt.toml"
        table = tomllib.loads(scenario.read_text())["method"] | SHORT
        epochs = 10 if name == "datm" else 2  # of an expert that is asked about images
        table |= {"name": name, "training": table.get("training", {}) | {"epochs": epochs}}
        table |= {"recipe": table["recipe"] | {"network": network}}
        return decode_method(table, where=scenario.name)
    if name == "dm":
        return method("dm", recipe={"network": network})
    table = {"blocks": ipc, "epochs": 3, "lr_img": 0.01, "lr_inner": 0.02, "start": "fixed"}  # as in `cifar10_wang.py`
    return method(name, **table, recipe={"network": "alexcifarnet", "initialisation": "xavier"})


def methods(
    source: LabelledImages, network: str, device: torch.device, *, sizes: tuple[int, ...], rounds: int
) -> Iterator[Record]:
    """Milliseconds and peak memory of an outer step of each method, with its published settings of CIFAR-10."""
    with tempfile.TemporaryDirectory() as folder:
        for ipc, name in product(sizes, (*MATCHING, "dm", "dataset-distillation")):
            config = preset(name, ipc, network)
            record: Record = {"what": "method", "method": name, "ipc": ipc, "config": config.model_dump(mode="json")}
            try:
                found = stepped(config, source, Size(ipc=ipc), device, Path(folder), rounds)
            except Exception as error:  # memory, above all
                found = {"reason": reason(error)}
            yield {**record, **found, **defaults()}


def stepped(
    config: MethodConfig, source: LabelledImages, size: Size, device: torch.device, cache: Path, rounds: int
) -> Record:
    """An outer step: median milliseconds, and peak MiB above what the distiller holds."""
    distiller: Distiller = config.build(Context.gather(config, source, size, seed=0, device=device, cache=cache))
    turns = iter(range(1_000_000))

    def step() -> object:
        return distiller.step(next(turns))

    step()
    _, mebi = excess(step, device)
    times = timed({config.name: step}, rounds=rounds, device=device)
    return {"ms": times[config.name], "rounds": rounds, "excess_mib": mebi}


# --- the same again ----------------------------------------------------------------------------------------------


def repeats(source: LabelledImages, network: str, device: torch.device, *, steps: int) -> Iterator[Record]:
    """Two runs of each method from one seed: which of experts, pixels and scores are the same to the bit."""
    for name in names():
        record: Record = {"what": "repeat", "method": name, "steps": steps}
        try:
            yield {**record, **repeated(name, source, network, device, steps)}
        except Exception as error:
            yield {**record, "reason": reason(error)}


def repeated(name: str, source: LabelledImages, network: str, device: torch.device, steps: int) -> Record:
    """Everything twice, and what differs."""
    config, record = small(name, network, steps), dict[str, Any]()
    options = RunOptions(device=str(device))
    size = Size(ipc=2)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first, second = (
            Context.gather(config, source, size, seed=0, device=device, cache=Path(folder)).artefacts
            for folder in (one, other)
        )
        if "experts" in first:
            record["experts"] = apart(trajectory(first["experts"], 0), trajectory(second["experts"], 0))
    pair = [distill(config, source, size, seed=0, options=options) for _ in range(2)]
    for what in ("images", "targets"):
        one, other = (getattr(ds, what) for ds in pair)
        if one is not None:
            record[what] = apart(torch.tensor(one), torch.tensor(other))  # copies: a set's arrays cannot be written to
    score = partial(evaluate, pair[0], train=source, test=source, protocol="recipe", nets=1, device=str(device))
    few = [score().accuracy.per_network for _ in range(2)]
    record["scores"] = {"same": few[0] == few[1], "largest": abs(few[0][0] - few[1][0])}
    record["same"] = all(part["same"] for part in record.values())
    return record


def apart(one: Tensor, other: Tensor) -> Mapping[str, Any]:
    """Whether two tensors are the same to the bit, and their largest difference."""
    largest = (one.double() - other.double()).abs().max().item()
    return {"same": torch.equal(one, other), "largest": largest}


def small(name: str, network: str, steps: int) -> MethodConfig:
    """A short run of a method, with augmentation, and with GSAM where it is the method's own."""
    recipe: Record = {"network": network, "epochs": 20}
    if name in (*MATCHING, "m-datm"):
        # FTD's and DATM's own are trained by GSAM; beyond their threshold DATM's would take no step
        datm: Record = {"range_start": None, "threshold": None} if name.endswith("datm") else {}
        few: Record = {"experts": 1, "last_epoch": 2, "syn_steps": 5, "training": {"epochs": 3}, **datm}
        return method(name, steps=steps, recipe=recipe, **few)
    if name == "dm":
        return method(name, steps=steps, recipe=recipe)
    if name == "dataset-distillation":
        return method(name, steps=steps, recipe={"network": network, "initialisation": "xavier"})
    if name == "optimized":
        return method(name, steps=steps)
    return method(name, recipe=recipe)
