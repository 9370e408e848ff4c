"""The keys of a continual-learning scenario: data, experiences, memory, and the settings of training.

Neither torch nor Avalanche is imported here, so that the command line can check a scenario at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, model_validator

from dd_apps.continual.rows import (
    DISTILLED_MEMORIES,
    EVERY_TABLE,
    LOGIT_BYTES,
    SHORT,
    TABLES,
    Row,
    Table,
    TaughtStrategy,
)
from dd_apps.data import DataScenario, images_a_class
from dd_apps.task import Outcome
from dd_core import methods
from dd_core.augment.names import Strategy
from dd_core.config import Config, decode
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError, unknown_name
from dd_core.evaluation import protocols
from dd_core.recipe import Recipe
from dd_core.training.teacher_config import TeacherConfig

if TYPE_CHECKING:
    from dd_core.runner import RunOptions

TUNED = ("replay", "er-ace")  # strategies that replay.tuning_epochs is for
DISTILLED = "distilled"  # the row of the scenario's method
Logger = Literal["tensorboard", "csv", "text"]


class _Training(Config):
    """Settings of training that the tables 'retraining' and 'replay' share."""

    schedule: Literal["constant", "step"] = Field(
        default="constant",
        exclude_if=lambda schedule: schedule == "constant",
        description="learning rate over the epochs of an experience: constant; step: divided by 10, with a new "
        "optimiser, for the second half, as in the evaluation of dataset condensation (DC)",
    )
    augmentation: Strategy = Field(
        default="none",
        exclude_if=lambda augmentation: augmentation == "none",
        description="siamese augmentation (DSA) of every mini-batch, current and memory images alike: kinds joined by "
        "'_', auto (all that suit the data), or none",
    )


class Retraining(_Training):
    """Training a fresh network on the memory alone after each experience (GDumb, Prabhu et al. 2020)."""

    epochs: int = Field(default=300, ge=1, description="passes over the memory after each experience")
    learning_rate: float = Field(default=0.01, gt=0, description="learning rate of SGD")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of SGD")
    batch_size: int = Field(default=256, ge=1, description="memory images in a mini-batch, at most")


class Replay(_Training):
    """Training one network on each experience in turn, with the memory mixed into every mini-batch.

    The rows without a memory (`none`, `joint`) are trained like this in both tables.
    """

    epochs: int = Field(default=10, ge=1, description="passes over each experience's images")
    learning_rate: float = Field(default=0.05, gt=0, description="learning rate of SGD")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of SGD")
    batch_size: int = Field(default=32, ge=1, description="images of the current experience in a mini-batch")
    batch_size_mem: int = Field(default=32, ge=1, description="memory images in a mini-batch")
    share: Literal["fill", "stored"] = Field(
        default="fill",
        description="memory images in a mini-batch: fill, always batch_size_mem of them, repeated if need be; "
        "stored, each stored image at most once, as Avalanche does",
    )
    tuning_epochs: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda epochs: epochs == 0,
        description="passes over the memory alone after each experience (balanced fine-tuning); 0 is no fine-tuning",
    )
    tuning_rate: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda rate: rate is None,
        description="learning rate of the passes over the memory that tuning_epochs counts; none: a tenth of "
        "learning_rate",
    )

    @property
    def fill(self) -> int | None:
        """Memory images that every mini-batch is filled up to; None without filling."""
        return self.batch_size_mem if self.share == "fill" else None


Settings = Retraining | Replay


class ContinualScenario(DataScenario):
    """A class-incremental benchmark: rows in tables, over several class orders."""

    image_size: int | None = Field(
        default=None, ge=4, description="side in pixels that images are resized to; none: images keep their own size"
    )
    images: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda count: count is None,
        description="training images of the whole stream, equally many of each class, drawn by the seed; none: all",
    )
    experiences: int = Field(default=5, ge=2, description="number of experiences that the classes are split into")
    orders: int = Field(default=3, ge=1, description="number of class orders, over which accuracies are averaged")
    class_orders: Literal["drawn", "numpy"] = Field(
        default="drawn",
        exclude_if=lambda rule: rule == "drawn",
        description="how class orders are made: drawn, by the seed; numpy, order k is numpy.random.seed(k); "
        "permutation(classes), as in the experiments of distribution matching (DM)",
    )
    networks: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda networks: networks == 1,
        description="networks, with different initial weights, that are trained in each class order",
    )
    task_labels: bool = Field(
        default=False,
        exclude_if=lambda labels: not labels,
        description="true: task-incremental learning, where a network chooses among the classes of a test image's own "
        "experience; false: among all classes",
    )
    images_per_class: int = Field(default=1, ge=1, description="images of each class that the memory keeps")
    bytes_per_class: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda count: count is None,
        description="bytes of each class that the memory keeps, of pixels as uint8 and of logits, instead of "
        "images_per_class; none: images are counted",
    )
    method: dict[str, JsonValue] = Field(
        default={"name": "dm"}, description="distillation method of the row 'distilled', and its options"
    )
    others: dict[str, dict[str, JsonValue]] = Field(
        default={},
        description="tables of further methods: [others.ROW] has the method's options, and the key `name` if the "
        "method's name is not ROW",
    )
    row: dict[str, Row] = Field(
        default={},
        exclude_if=lambda rows: rows == {},
        description="tables of further rows: [row.NAME] has a memory and the strategy that learns with it",
    )
    protocols: tuple[Table, ...] = Field(
        default=TABLES,
        min_length=1,
        exclude_if=lambda tables: tables == TABLES,
        description="tables that are made: retraining (a fresh network on the memory after each experience), replay "
        "(one network that learns each experience with the memory mixed in), taught (a fresh network on the memory, "
        "whose views teachers label)",
    )
    loggers: tuple[Logger, ...] = Field(
        default=(),
        exclude_if=lambda names: names == (),
        description="Avalanche's loggers, whose files are written beside the results: tensorboard, csv, text",
    )
    network: str = Field(default="convnet-3-w32", description="network that is trained")
    seed: int = Field(default=0, ge=0, description="seed of everything random")
    rows: tuple[str, ...] = Field(
        default=("distilled", "average", "real", "none", "joint"),
        min_length=1,
        description="rows that are compared: distilled (the scenario's method), real (real images), real-adaptive "
        "(all room shared by the classes seen so far), none (no memory), joint (all images), a method's name, or a "
        "name of the tables row and others",
    )
    retraining: Retraining = Field(default=Retraining(), description="settings of the table 'retraining'")
    replay: Replay = Field(default=Replay(), description="settings of the table 'replay'")
    workers: int = Field(default=2, ge=1, description="jobs that run in parallel; no result depends on their number")

    @model_validator(mode="after")
    def _fits_together(self) -> ContinualScenario:
        for key, names in (("rows", self.rows), ("protocols", self.protocols), ("loggers", self.loggers)):
            if len(set(names)) != len(names):
                raise ValueError(f"{key}: each may be named once")
        try:
            self._check_rows()
        except UserError as error:
            raise ValueError(error.text) from None
        if DISTILLED in self.rows and self.method["name"] in self.rows:
            raise ValueError(f"rows: '{self.method['name']}' is the row 'distilled' already")
        return self

    def _check_rows(self) -> None:
        """Raise `UserError` for a row that does not exist, that no table has, or whose method a memory cannot use."""
        memory_config(self.method, key="method")
        for key, names in (("others", self.others), ("row", self.row)):
            for name in names:
                if name in SHORT:
                    raise UserError(f"{key}.{name}: the row '{name}' has no such options; give this one another name")
                if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):  # files are named after it
                    raise UserError(
                        f"{key}: {name!r}: a row is named with at most 100 letters, digits, '_', '.' and '-'"
                    )
        if both := sorted(self.others.keys() & self.row.keys()):
            raise UserError(f"row.{both[0]}: others.{both[0]} is a row already; give one of them another name")
        known = (*SHORT, *self.row, *self.others, *methods.names())
        for name in self.rows:
            if name not in known:
                raise UserError(f"rows: {unknown_name('row', name, known)}")
            if not self.tables_of(name):
                row_tables = ", ".join(self.row_of(name).tables)
                raise UserError(f"rows: '{name}' stands in the table {row_tables}; add that to protocols")
        for name in dict.fromkeys((*self.row, *self.others, *self.rows)):
            if name != DISTILLED and (table := self.memory_method(name)) is not None:
                key = f"row.{name}.method" if name in self.row else f"others.{name}"
                config = memory_config(table, key=key)
                if self.row_of(name).labels == "bank":
                    require_bankable(config, key=key)
            for table in self.row_of(name).tables:
                self.recipe_of(name) if table == "taught" else self._check_settings(name, table)

    def _check_settings(self, name: str, table: Table) -> None:
        settings, row = self.settings(name, table), self.row_of(name)
        if row.labels == "bank" and settings.augmentation != "none":
            raise UserError(
                f"row.{name}: augmentation = '{settings.augmentation}' would change the views that the bank's teacher "
                'labelled; give the row training = { augmentation = "none" }'
            )
        if not isinstance(settings, Replay) or not settings.tuning_epochs or row.memory in ("none", "joint"):
            return
        strategy = row.strategy_in(table).name
        if strategy not in TUNED or row.labels != "hard":
            what = f"strategy '{strategy}'" if strategy not in TUNED else f"labels = '{row.labels}'"
            raise UserError(
                f"row.{name}: {what} is not tuned on the memory, only {' and '.join(TUNED)} with hard labels are; give "
                "the row training = { tuning_epochs = 0 }"
            )

    @property
    def title(self) -> str:
        """Data, experiences, memory size and rows, on one line."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        images = images_a_class(self.images_per_class)
        rows = [str(self.method["name"]) if row == DISTILLED else row for row in self.rows]
        stream = f"{self.experiences} experiences, memories of {images}"
        return f"class-incremental learning on {self.data}{size}: {stream}, {', '.join(rows)}"

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Make the tables; distilled sets and finished jobs are kept in `folder`."""
        from dd_apps.continual.outcome import run_task  # the benchmark loads torch

        return run_task(self, folder, options)

    def row_of(self, name: str) -> Row:
        """The memory and the strategy of a row; a row of `others`, or of a method's name, distils by that method."""
        if name in self.row:
            return self.row[name]
        if name in SHORT:
            return SHORT[name]
        return Row(method={"name": name, **self.others.get(name, {})})

    def tables_of(self, name: str) -> tuple[Table, ...]:
        """The tables of this scenario in which a row stands, in the tables' own order."""
        return tuple(table for table in EVERY_TABLE if table in self.protocols and table in self.row_of(name).tables)

    def memory_method(self, name: str) -> dict[str, Any] | None:
        """The distillation method of a row, or None where the row keeps real images or nothing."""
        row = self.row_of(name)
        if row.memory in DISTILLED_MEMORIES:
            return dict(self.method if row.method is None else row.method)
        return None

    def settings(self, name: str, table: Table) -> Settings:
        """The settings of a row in a table: the table's, changed by the row's `training`. Raises `UserError`."""
        row = self.row_of(name)
        retrained = table == "retraining" and row.memory not in ("none", "joint")
        return _changed(self.retraining if retrained else self.replay, row.training, key=f"row.{name}.training")

    def recipe_of(self, name: str) -> Recipe:
        """The recipe of a row in the table 'taught': the protocol's, changed by the row's `training`.

        Raises `UserError` for a protocol without a teacher, and for one that mixes images of two experiences where each
        has a teacher of its own.
        """
        row, strategy = self.row_of(name), self.row_of(name).named_strategy
        assert isinstance(strategy, TaughtStrategy)
        key = f"row.{name}"
        teaching = self.teaching_method(name, key=f"{key}.method")
        recipe = protocols.load(strategy.protocol).recipe(teaching.recipe, source_name=self.data)
        if recipe.teacher == "none":
            raise UserError(f"{key}.strategy.protocol: '{strategy.protocol}' has no teacher; give one such as sre2l-kd")
        values = {**recipe.model_dump(mode="json"), "teacher": strategy.mode, "network": self.network, **row.training}
        recipe = decode(Recipe, values, key=f"{key}.training")
        if strategy.teacher == "per-step" and recipe.views is not None and recipe.views.mix != "none":
            raise UserError(
                f"{key}.strategy: protocol '{strategy.protocol}' mixes images of two steps, and no per-step teacher "
                'knows both; use protocol = "sre2l-kd", or teacher = "joint"'
            )
        return recipe

    def teaching_method(self, name: str, *, key: str = "method") -> MethodConfig:
        """The method whose teacher labels a row's images: the row's own method, or else the scenario's.

        So the scenario's teacher labels a row of random real images too. Raises `UserError` if neither has a teacher.
        """
        for table in (self.memory_method(name), self.method):
            config = methods.decode_method(dict(table or {}), key=key)
            if getattr(config, "teacher", None) is not None:
                return config
        raise UserError(f"{key}: neither it nor the scenario's method has a teacher, such as sre2l and rded have")

    def images_of_class(self, name: str, *, image_bytes: int, classes: int) -> int:
        """Images of a class that a row's memory keeps; logits that it stores count against a budget in bytes.

        Raises `UserError` where a class's bytes hold no image.
        """
        row, budget = self.row_of(name), self.bytes_per_class
        count = row.images_per_class or self.images_per_class
        if row.images_per_class is None and budget is not None:
            count = budget // image_bytes
            if count < 1:
                raise UserError(f"bytes_per_class: {budget} bytes hold no image of {image_bytes} bytes")
        strategy = row.named_strategy
        if strategy is None or not strategy.keeps_logits or row.budget == "images" or row.memory in DISTILLED_MEMORIES:
            return count  # a distilled memory counts its bytes itself
        bytes_of_class = budget if row.images_per_class is None and budget is not None else count * image_bytes
        item = image_bytes + LOGIT_BYTES * classes
        if bytes_of_class < item:
            raise UserError(
                f"row.{name}: {bytes_of_class} bytes a class hold no image of {image_bytes} bytes with {classes} "
                'logits; give the row budget = "images", or a larger memory'
            )
        return bytes_of_class // item


def _changed(settings: Settings, changes: Mapping[str, JsonValue], *, key: str) -> Settings:
    return decode(type(settings), {**settings.model_dump(mode="json"), **changes}, key=key) if changes else settings


def memory_config(method: str | Mapping[str, Any] | MethodConfig, *, key: str = "method") -> MethodConfig:
    """The config of a method for a replay memory, checked as far as possible before its set is made.

    Raises `UserError` for an unknown method or option, for a method whose set holds for particular weights only,
    and for an attack.
    """
    config = methods.decode_method(method, key=key) if isinstance(method, Mapping) else methods.as_method(method)
    config.require_labels_used("a replay buffer")
    if config.starts != "fresh":
        raise UserError(f"{key}: makes {for_particular_weights(config.name)}")
    if getattr(config, "attack", None) is not None:
        raise UserError(f"{key}.attack: makes a set to mislead networks, and a replay buffer teaches them")
    return config


def require_bankable(config: MethodConfig, *, key: str = "method") -> None:
    """Raise `UserError` for a method whose images cannot have a bank: views of them with a teacher's logits."""
    recipe = config.recipe
    if not isinstance(getattr(config, "teacher", None), TeacherConfig):
        raise UserError(f"{key}: {config.name} has no teacher to label views, such as sre2l and rded have")
    if recipe.views is None:
        raise UserError(f"{key}.recipe.views: a bank needs views, and the recipe has none; give a crop or a padding")
    if recipe.views.mix != "none":
        raise UserError(
            f"{key}.recipe.views.mix: a memory that shrinks could drop one of two images that '{recipe.views.mix}' "
            "mixes; make it none"
        )
    if recipe.teacher == "batch-stats":
        raise UserError(f"{key}.recipe.teacher: a memory's bank is labelled in the mode 'eval', not 'batch-stats'")
    if recipe.loss == "mse":
        raise UserError(f"{key}.recipe.loss: 'mse' learns targets as they are, and a bank gives class probabilities")


def for_particular_weights(name: str) -> str:
    """Why a replay memory cannot use a set of the method `name`."""
    return f"a set of {name} for networks that start from particular weights; a replay buffer trains any network"
