"""A row of the tables: a memory, its size, and the strategy that learns with it. No torch, no Avalanche."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from dd_core.config import Config, decode
from dd_core.errors import UserError, unknown_name

Table = Literal["retraining", "replay", "taught"]
TABLES: tuple[Table, ...] = ("retraining", "replay")  # the tables of a row that names no strategy
EVERY_TABLE: tuple[Table, ...] = (*TABLES, "taught")
Memory = Literal["distilled", "hybrid", "reservoir", "class-balanced", "herding", "none", "joint"]
REAL_MEMORIES = ("reservoir", "class-balanced", "herding")
DISTILLED_MEMORIES = ("distilled", "hybrid")
LOGIT_BYTES = 4  # of one logit that a memory keeps, a float32


def bank_bytes(epochs: int | None, classes: int) -> int:
    """Bytes of an image's views: in each epoch a box of four int16, a flip, and a float16 logit of each class.

    classes: number of classes that the teacher knows; epochs: views of the image, None for a memory without views.
    """
    return 0 if epochs is None else epochs * (4 * 2 + 1 + 2 * classes)


class StrategyConfig(Config):
    """A way of learning with a memory; the class attributes say what the strategy can be used with.

    table: the table of its rows; None: 'retraining' and 'replay'. memories: the kinds of memory that it takes. module:
    its file in `dd_apps/continual/strategies`. keeps_logits: whether it stores a network's logits with each image.
    """

    name: ClassVar[str]
    table: ClassVar[Table | None] = "replay"
    memories: ClassVar[tuple[str, ...]]
    module: ClassVar[str]
    keeps_logits: ClassVar[bool] = False


class ReplayStrategy(StrategyConfig):
    """Mini-batches of current and memory images (Avalanche's ReplayPlugin)."""

    name = "replay"
    memories = (*DISTILLED_MEMORIES, *REAL_MEMORIES)
    module = "replaying"


class GDumbStrategy(StrategyConfig):
    """A fresh network on the memory alone after each experience (Prabhu et al. 2020; Avalanche's GDumbPlugin)."""

    name = "gdumb"
    table = "retraining"
    memories = (*DISTILLED_MEMORIES, *REAL_MEMORIES)
    module = "retraining"


class ErAceStrategy(StrategyConfig):
    """Replay in which current images compete with classes of the current experience only (Caccia et al. 2022)."""

    name = "er-ace"
    memories = ("distilled", "hybrid", "class-balanced", "reservoir")
    module = "er_ace"


class DerStrategy(StrategyConfig):
    """DER++: replay that keeps the logits which the network gave for an image (Buzzega et al. 2020).

    Loss: cross-entropy of current images + alpha * squared error of the memory's logits + beta * cross-entropy of
    memory images. The defaults are the authors' for split CIFAR-10 with a memory of 200 images. A memory of real images
    is Avalanche's own; distilled images get the logits of the network that has just learned their experience.
    """

    name = "der"
    memories = ("class-balanced", *DISTILLED_MEMORIES)
    module = "der"
    keeps_logits = True
    alpha: float = Field(default=0.1, ge=0, description="weight of the squared error between old and present logits")
    beta: float = Field(default=0.5, ge=0, description="weight of the cross-entropy of memory images; 0 is DER")


class IcarlStrategy(StrategyConfig):
    """iCaRL: exemplars chosen by herding, sigmoid outputs distilled, nearest class mean (Rebuffi et al. 2017).

    The memory is Avalanche's own, with equally many exemplars of each class; class means are over exemplars and their
    mirror images, as in the paper.
    """

    name = "icarl"
    memories = ("herding",)
    module = "icarl"


class LwfStrategy(StrategyConfig):
    """Learning without Forgetting: the network before an experience teaches the one that learns it (Li, Hoiem 2016)."""

    name = "lwf"
    memories = ("none", "distilled", *REAL_MEMORIES)
    module = "regularised"
    alpha: float = Field(default=1.0, ge=0, description="weight of the distillation loss")
    temperature: float = Field(default=2.0, gt=0, description="temperature of both networks' outputs")


class EwcStrategy(StrategyConfig):
    """Online EWC: a penalty holds weights that matter to earlier experiences (Kirkpatrick 2017, Schwarz et al. 2018).

    The defaults are those of DER's authors for split CIFAR-10.
    """

    name = "ewc"
    memories = ("none", "distilled", *REAL_MEMORIES)
    module = "regularised"
    strength: float = Field(default=10.0, ge=0, description="weight of the penalty (lambda)")
    decay: float = Field(default=1.0, ge=0, le=1, description="factor of older importances at each experience (gamma)")


class NaiveStrategy(StrategyConfig):
    """Training on the current experience's images only."""

    name = "naive"
    table = None
    memories = ("none",)
    module = "naive"


class CumulativeStrategy(StrategyConfig):
    """Training on the images of all experiences so far: an upper bound."""

    name = "cumulative"
    table = None
    memories = ("joint",)
    module = "naive"


class TaughtStrategy(StrategyConfig):
    """A fresh network after each experience learns all distilled images so far, and teachers label every view of them.

    SRe2L's experiment (Yin et al. 2023). A per-step teacher was trained on its own experience only, as the rules of
    continual learning require. The joint teacher and joint images know all classes from the start: an upper bound, and
    the published setting. The row's `training` changes the protocol's recipe.
    """

    name = "taught"
    table = "taught"
    memories = ("distilled",)
    module = ""  # no strategy of Avalanche: the protocol's own training
    protocol: str = Field(
        default="sre2l-kd", description="protocol by which networks are trained, in which a teacher labels views"
    )
    teacher: Literal["per-step", "joint"] = Field(
        default="per-step",
        description="who labels images: per-step, a teacher for each experience, trained on that experience alone; "
        "joint, one teacher trained on all classes, an upper bound",
    )
    images: Literal["per-step", "joint"] = Field(
        default="per-step",
        description="how images are distilled: per-step, each experience by itself; joint, all classes at once, an "
        "upper bound",
    )
    mode: Literal["eval", "batch-stats"] = Field(
        default="eval",
        description="statistics by which a teacher's batch norms normalise: eval, the running ones; batch-stats, those "
        "of the mini-batch, as for the published figures",
    )


_STRATEGIES: dict[str, type[StrategyConfig]] = {
    config.name: config
    for config in (
        ReplayStrategy,
        GDumbStrategy,
        ErAceStrategy,
        DerStrategy,
        IcarlStrategy,
        LwfStrategy,
        EwcStrategy,
        NaiveStrategy,
        CumulativeStrategy,
        TaughtStrategy,
    )
}


def strategy_names() -> tuple[str, ...]:
    """The names that a row's `strategy` can be."""
    return tuple(_STRATEGIES)


def decode_strategy(given: object) -> StrategyConfig:
    """A strategy from its name, or from a table with `name` and options. Raises `UserError`."""
    table: Mapping[str, Any] = {"name": given} if isinstance(given, str) else dict(_table(given))
    name, options = table.get("name"), {key: value for key, value in table.items() if key != "name"}
    if not isinstance(name, str) or name not in _STRATEGIES:
        raise UserError(f"strategy: {unknown_name('strategy', str(name), strategy_names())}")
    return decode(_STRATEGIES[name], options, key="strategy")


def _table(given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"strategy: a name or a table with `name` is needed, not {given!r}")
    return given


class Row(Config):
    """One row of the tables: a memory and a strategy; without a strategy, each table has its own."""

    memory: Memory = Field(
        default="distilled",
        description="images of old experiences that are kept: distilled; hybrid (real and distilled); real images by "
        "reservoir, class-balanced or herding; none; joint (all images)",
    )
    method: dict[str, JsonValue] | None = Field(
        default=None, description="distillation method of the memory, and its options; none: the scenario's method"
    )
    real_share: float = Field(
        default=0.5, gt=0, lt=1, description="fraction of a hybrid memory's images of a class that are real"
    )
    features: Literal["pixels", "network"] = Field(
        default="pixels",
        description="space in which a hybrid memory chooses real images: pixels, or features of the trained network",
    )
    labels: Literal["hard", "network", "stored", "bank"] = Field(
        default="hard",
        description="target of a memory image in replay: hard, its class; network, class probabilities by the network "
        "at the end of the image's experience; stored, soft labels that the method learned; bank, class probabilities "
        "that the method's teacher gave several views of the image, which replay then shows",
    )
    bank_epochs: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda epochs: epochs is None,
        description="views of each memory image that are kept with a teacher's logits; only for labels = 'bank'",
    )
    strategy: Annotated[str | dict[str, JsonValue] | None, Field(union_mode="left_to_right")] = Field(
        default=None,
        description="strategy by which the network learns: its name, or a table with `name` and options; none: gdumb "
        "in the table 'retraining', and replay in the table 'replay'",
    )
    images_per_class: int | None = Field(
        default=None, ge=1, description="images of each class that this row's memory keeps; none: as the scenario says"
    )
    adaptive: bool = Field(
        default=False,
        description="true: classes seen so far share all of the memory's room; false: each class has an equal part of "
        "the room from the start",
    )
    shrinking: Literal["first", "distil"] = Field(
        default="first",
        exclude_if=lambda rule: rule == "first",
        description="images that a class of an adaptive distilled memory keeps when its share becomes smaller: first, "
        "its first images; distil, fewer images, which the method distils from those in the memory",
    )
    budget: Literal["bytes", "images"] = Field(
        default="bytes",
        description="equal in all rows: bytes, so that a memory with soft labels keeps fewer images; images, so "
        "that such a memory has more bytes",
    )
    training: dict[str, JsonValue] = Field(
        default={}, description="settings of training for this row alone, such as epochs, in place of the table's"
    )

    @field_validator("strategy")
    @classmethod
    def _known(cls, given: str | dict[str, JsonValue] | None) -> str | dict[str, JsonValue] | None:
        if given is not None:
            try:
                decode_strategy(given)
            except UserError as error:
                raise ValueError(error.text.removeprefix("strategy: ")) from None
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Row:
        if self.memory not in DISTILLED_MEMORIES:
            for name in ("method", "labels"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: the memory '{self.memory}' distils nothing")
        if self.memory != "hybrid":
            for name in ("real_share", "features"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: the memory '{self.memory}' is not hybrid")
        if self.labels != "hard" and self.strategy not in (None, "replay"):
            raise ValueError(f"labels: soft labels are replayed by the strategy 'replay', not by {self.strategy!r}")
        if self.bank_epochs is None and self.labels == "bank":
            raise ValueError("bank_epochs: labels = 'bank' needs the number of views that are kept of an image")
        if self.bank_epochs is not None and self.labels != "bank":
            raise ValueError(f"bank_epochs: labels = '{self.labels}' keeps no views; labels = 'bank' does")
        if self.labels == "bank" and self.memory == "hybrid":
            raise ValueError("labels: a bank is of distilled images, and a hybrid memory has real ones too")
        if self.labels == "bank" and self.shrinking != "first":
            raise ValueError("shrinking: a bank has no teacher for images that are distilled again; use 'first'")
        if self.adaptive and self.memory not in ("class-balanced", "herding", *DISTILLED_MEMORIES):
            raise ValueError(f"adaptive: the memory '{self.memory}' does not share its room between classes")
        if self.shrinking != "first" and not (self.adaptive and self.memory == "distilled"):
            raise ValueError("shrinking: only the room of a distilled memory with adaptive = true becomes smaller")
        strategy = self.named_strategy
        if strategy is not None and self.memory not in strategy.memories:
            allowed = " or ".join(strategy.memories)
            raise ValueError(f"strategy: '{strategy.name}' learns with memory {allowed}, not '{self.memory}'")
        return self

    @property
    def named_strategy(self) -> StrategyConfig | None:
        """The strategy that the row names, with its options; None where each table has its own."""
        return None if self.strategy is None else decode_strategy(self.strategy)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables in which the row stands."""
        strategy = self.named_strategy
        if self.labels != "hard" or self.features == "network":
            return ("replay",)  # GDumb fills its memory before its network has learned, and knows hard labels only
        return TABLES if strategy is None or strategy.table is None else (strategy.table,)

    def strategy_in(self, table: Table) -> StrategyConfig:
        """The strategy of the row in one of its tables."""
        if (strategy := self.named_strategy) is not None:
            return strategy
        if self.memory in ("none", "joint"):
            return NaiveStrategy() if self.memory == "none" else CumulativeStrategy()
        return GDumbStrategy() if table == "retraining" else ReplayStrategy()


SHORT: dict[str, Row] = {
    "distilled": Row(),
    "real": Row(memory="class-balanced"),
    "real-adaptive": Row(memory="class-balanced", adaptive=True),
    "none": Row(memory="none"),
    "joint": Row(memory="joint"),
}
