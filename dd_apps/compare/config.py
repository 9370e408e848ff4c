"""The keys of a scenario of the task `compare`, for example as below; imports no torch.

task = "compare"
data = "digits"
ipcs = [1, 5]
networks = ["convnet-2-w32", "lenet"]
seeds = 5

[methods.dm]
steps = 200
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from dd_apps.data import DataScenario
from dd_apps.scoring import check_names
from dd_apps.task import Outcome
from dd_core import methods as tables
from dd_core.distiller import MethodConfig, SelectionConfig
from dd_core.errors import UserError, unknown_name
from dd_core.evaluation import protocols

if TYPE_CHECKING:
    from dd_core.runner import RunOptions

Options = dict[str, JsonValue]

RANDOM = "random"
TWIN = "random-real twin"


class CompareScenario(DataScenario):
    """Methods x ipcs x networks x seeds, each distilled set compared with real images of as many bytes."""

    methods: dict[str, Options] = Field(
        min_length=1,
        description="tables of the methods that are compared, by row name: [methods.ROW] has the method's options, and "
        "the key `name` if the method's name is not ROW",
    )
    at: dict[str, dict[str, Options]] = Field(
        default={},
        description="options of methods that hold at one ipc only, by ipc and row name: at.10.mtt.lr_lr is the option "
        "lr_lr of the row mtt at 10 images per class",
    )
    baselines: tuple[str, ...] = Field(
        default=(RANDOM, "herding", "k-means", "average"),
        description="methods that choose or average real images, as baselines; each gets as many bytes as the "
        "distilled set it is compared with, whose soft labels and learned learning rates are counted",
    )
    ipcs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 10), min_length=1, description="numbers of images per class; methods are compared at each of them"
    )
    networks: tuple[str, ...] = Field(
        default=(), description="networks that every set is scored on; empty only if the protocol trains no network"
    )
    seeds: int = Field(default=5, ge=1, description="number of seeds, counted from `seed`; tests are paired over seeds")
    seed: int = Field(default=0, ge=0, description="first seed, of distillation, real images, weights and training")
    nets: int = Field(default=1, ge=1, description="fresh networks whose mean is the score of a set under one seed")
    anew: bool = Field(
        default=True,
        description="true: each seed distils a set of its own, and tests are about methods; false: one set, distilled "
        "by the first seed, is scored under all seeds, and tests are about that set",
    )
    protocol: str = Field(default="recipe", description="name of the protocol by which networks are trained on a set")
    stored: Literal["uint8", "as-made"] = Field(
        default="uint8",
        description="how distilled pixels are stored, counted in bytes and scored: uint8, rounded and clipped to black "
        "and white, one byte a value; as-made, as the method made them, mostly float32 of four bytes a value",
    )
    workers: int = Field(default=1, ge=1, description="number of sets that are made, or scored, in parallel")

    @field_validator("ipcs")
    @classmethod
    def _each_size_once(cls, ipcs: tuple[int, ...]) -> tuple[int, ...]:
        _require_distinct(ipcs)
        return ipcs

    @field_validator("networks", "baselines")
    @classmethod
    def _each_name_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _require_distinct(names)
        return names

    @model_validator(mode="after")
    def _can_be_run(self) -> CompareScenario:
        try:
            check_names(protocol=self.protocol, networks=self.networks)
            for (name, _), config in self.configs.items():
                _check_method(name, config)
            _ = self.baseline_configs
        except UserError as error:
            raise ValueError(error.text) from None
        if protocols.load(self.protocol).trains_networks and not self.networks:
            raise ValueError("networks: expected at least one network to score sets on, as in ['convnet-3']")
        for size, rows in self.at.items():
            if size not in map(str, self.ipcs):
                raise ValueError(f"at.{size}: no such size; ipcs are {listed(self.ipcs)}")
            for name in rows:
                if name not in self.methods:
                    raise ValueError(f"at.{size}: {unknown_name('row', name, self.methods).text}")
        for name in self.methods:
            if name in (*self.baselines, TWIN):
                raise ValueError(
                    f"methods: '{name}' is a baseline too; give the row another name, or take that one out"
                )
        return self

    @property
    def configs(self) -> Mapping[tuple[str, int], MethodConfig]:
        """The config of each distilled row at each size, by (row, images per class); raises `UserError`."""
        return {
            (name, ipc): _decoded(name, options, self.at.get(str(ipc), {}).get(name, {}), ipc)
            for name, options in self.methods.items()
            for ipc in self.ipcs
        }

    @property
    def baseline_configs(self) -> Mapping[str, SelectionConfig]:
        """The config of each baseline, with the method's defaults; raises `UserError`."""
        return {name: _baseline(name) for name in self.baselines}

    @property
    def all_seeds(self) -> range:
        """The seeds of the comparison."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def set_seeds(self) -> Sequence[int]:
        """The seeds by which sets are distilled."""
        return self.all_seeds if self.anew else (self.seed,)

    @property
    def title(self) -> str:
        """Methods, data, ipcs, networks and seeds, on one line."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        networks = self.networks or (protocols.load(self.protocol).name,)
        return (
            f"{listed(list(self.methods))} beside real images at equal bytes, on {self.data}{size}: "
            f"{listed(self.ipcs)} a class, {listed(networks)}, {many(self.seeds, 'seed')}"
        )

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Distil, choose real images, score, and compare."""
        from dd_apps.compare.task import run_task  # loads torch

        return run_task(self, folder, options)


def listed(values: Sequence[object]) -> str:
    """`2`, `2 and 4`, `2, 4 and 8`."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def many(count: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _require_distinct(values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} is there twice; expected each once")


def _decoded(name: str, options: Options, here: Options, ipc: int) -> MethodConfig:
    """The config of a row at one size, where `here` are the options that differ there."""
    if "name" not in options and name not in tables.names():
        raise UserError(f"methods.{name}: {unknown_name('method', name, tables.names()).text}")
    config = tables.decode_method({"name": name, **options}, key=f"methods.{name}")
    if not here:
        return config
    if "name" in here:
        raise UserError(f"at.{ipc}.{name}.name: a row has the same method at every size; give it a row of its own")
    return tables.decode_method(_merged({"name": name, **options}, here), key=f"at.{ipc}.{name}")


def _merged(options: Options, changes: Options) -> Options:
    """The options, overridden by `changes`; nested tables are merged key by key."""
    merged = dict(options)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _check_method(name: str, config: MethodConfig) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise UserError(f"methods: '{name}' is part of file names; expected letters, digits and . _ + - only")
    try:
        config.require_labels_used("the score of a classifier")
    except UserError as error:
        raise UserError(f"methods.{name}: {error.text}") from None
    if getattr(config, "attack", None) is not None:
        raise UserError(f"methods.{name}: an attack's sets are not made for accuracy; leave out `attack`")
    if config.starts == "one":
        raise UserError(
            f"methods.{name}: its sets are for one particular network, but a comparison trains fresh ones; choose a "
            "start with more networks, such as start = 'random'"
        )


def _baseline(name: str) -> SelectionConfig:
    """The config of a baseline; raises `UserError` for a method that does more than choose or average real images."""
    if name not in tables.names():
        raise UserError(f"baselines: {unknown_name('method', name, tables.names()).text}")
    config = tables.method(name)
    if not isinstance(config, SelectionConfig):
        raise UserError(
            f"baselines: '{name}' learns or trains, and baselines only choose or average real images; put it under "
            f"methods, as [methods.{name}]"
        )
    return config
