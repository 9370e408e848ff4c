"""What a continual-learning scenario says: data, experiences, memory, and the two ways of training with it.

Neither torch nor Avalanche is imported here, so that a command line can check a scenario at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, model_validator

from dd_apps.data import DataScenario, images_a_class
from dd_apps.task import Outcome
from dd_core import methods
from dd_core.config import Config
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dd_core.runner import RunOptions

Table = Literal["retraining", "replay"]
TABLES: tuple[Table, ...] = ("retraining", "replay")
DISTILLED = "distilled"  # the row of the scenario's method
UNDISTILLED = ("real", "real-adaptive", "none", "joint")  # every other row is named by a method, or in `others`


class Retraining(Config):
    """Training a fresh network on the memory alone after each experience (GDumb, Prabhu et al. 2020)."""

    epochs: int = Field(default=300, ge=1, description="passes over the memory")
    learning_rate: float = Field(default=0.01, gt=0, description="of SGD")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="of SGD")
    batch_size: int = Field(default=256, ge=1, description="memory images in a mini-batch, at most")


class Replay(Config):
    """Training one network on each experience in turn, with the memory mixed into every mini-batch.

    The rows without a memory (`none`, `joint`) are trained like this in both tables.
    """

    epochs: int = Field(default=10, ge=1, description="passes over each experience's images")
    learning_rate: float = Field(default=0.05, gt=0, description="of SGD")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(default=0.0, ge=0, description="of SGD")
    batch_size: int = Field(default=32, ge=1, description="current images in a mini-batch")
    batch_size_mem: int = Field(default=32, ge=1, description="memory images in a mini-batch")
    share: Literal["fill", "stored"] = Field(
        default="fill",
        description="fill: stored images are drawn repeatedly until batch_size_mem is full; "
        "stored: each at most once, as Avalanche does",
    )

    @property
    def fill(self) -> int | None:
        """What the memory is filled up to, or None."""
        return self.batch_size_mem if self.share == "fill" else None


class ContinualScenario(DataScenario):
    """A class-incremental benchmark: both tables, every row, several class orders."""

    image_size: int | None = Field(
        default=None, ge=4, description="pixels a side that images are resized to; none keeps the images as they are"
    )
    experiences: int = Field(default=5, ge=2, description="parts that the classes arrive in")
    orders: int = Field(default=3, ge=1, description="class orders, each a permutation drawn by the seed")
    images_per_class: int = Field(default=1, ge=1, description="images that the memory keeps of a class")
    method: dict[str, JsonValue] = Field(
        default={"name": "dm"}, description="method of the row 'distilled', and its options"
    )
    others: dict[str, dict[str, JsonValue]] = Field(
        default={},
        description="options of further methods, by row; the row is the method's name, unless `name` says another",
    )
    network: str = Field(default="convnet-3-w32", description="network that learns")
    seed: int = Field(default=0, ge=0, description="seed of everything")
    rows: tuple[str, ...] = Field(
        default=("distilled", "average", "real", "none", "joint"),
        min_length=1,
        description="what is compared: distilled (see `method`), real, real-adaptive, none, joint, "
        "any other method by its name, or a row of `others`",
    )
    retraining: Retraining = Field(default=Retraining(), description="the table 'retraining'")
    replay: Replay = Field(default=Replay(), description="the table 'replay'")
    workers: int = Field(default=2, ge=1, description="jobs at the same time; results do not depend on it")

    @model_validator(mode="after")
    def _fits_together(self) -> ContinualScenario:
        if len(set(self.rows)) != len(self.rows):
            raise ValueError("rows: each may be named once")
        try:
            self._check_methods()
        except UserError as error:
            raise ValueError(error.text) from None
        if DISTILLED in self.rows and self.method["name"] in self.rows:
            raise ValueError(f"rows: '{self.method['name']}' is the row 'distilled' already")
        return self

    def _check_methods(self) -> None:
        """Raise `UserError` for a row that is none, and for a method that cannot be used in one."""
        memory_config(self.method, key="method")
        for row in self.others:
            if row in (DISTILLED, *UNDISTILLED):
                raise UserError(f"others.{row}: the row '{row}' has no such options; give this one another name")
            if not re.fullmatch(r"\w[\w.-]*", row, re.ASCII):  # files are named after it
                raise UserError(f"others: {row!r}: a row is named with letters, digits, '_', '.' and '-'")
        known = (DISTILLED, *UNDISTILLED, *self.others, *methods.names())
        for row in self.rows:
            if row not in known:
                raise UserError(f"rows: {unknown_name('row', row, known)}")
        for row in dict.fromkeys((*self.others, *self.rows)):
            if row != DISTILLED and (table := self.memory_method(row)) is not None:
                memory_config(table, key=f"others.{row}")

    @property
    def title(self) -> str:
        """What is done, from the values: data, stream, method and memory."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        images = images_a_class(self.images_per_class)
        rows = [str(self.method["name"]) if row == DISTILLED else row for row in self.rows]
        stream = f"{self.experiences} experiences, memories of {images}"
        return f"class-incremental learning on {self.data}{size}: {stream}, {', '.join(rows)}"

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Both tables; the distilled sets are kept in `folder`."""
        from dd_apps.continual.outcome import run_task  # the benchmark loads torch

        return run_task(self, folder, options)

    def memory_method(self, row: str) -> dict[str, Any] | None:
        """The distillation method of a row, or None where the row keeps real images or nothing."""
        if row in UNDISTILLED:
            return None
        return dict(self.method) if row == DISTILLED else {"name": row, **self.others.get(row, {})}


def memory_config(method: Mapping[str, Any] | MethodConfig, *, key: str = "method") -> MethodConfig:
    """A method that a replay memory can use, where that can be told before its set is made.

    Raises `UserError` for an unknown method or option, for a method whose set holds for particular weights only,
    for a formation, and for an attack.
    """
    config = method if isinstance(method, MethodConfig) else methods.decode_method(method, key=key)
    config.require_labels_used("a replay buffer")
    if config.starts != "fresh":
        raise UserError(f"{key}: makes {for_particular_weights(config.name)}")
    if getattr(config, "formation", 1) != 1:
        raise UserError(f"{key}.formation: a replay buffer keeps images as networks see them; leave the formation out")
    if getattr(config, "attack", None) is not None:
        raise UserError(f"{key}.attack: makes a set to mislead networks, and a replay buffer teaches them")
    return config


def for_particular_weights(name: str) -> str:
    """Why a replay memory cannot use a set of the method `name`."""
    return f"a set of {name} for networks that start from particular weights; a replay buffer trains any network"
