"""The keys of a scenario of the task `transfer`, for example as below; imports neither torch nor timm.

task = "transfer"
data = "digits"
classes = [0, 1, 2, 3, 4]
backbones = ["convnet-2-w32", "resnet-8"]
targets = [{ data = "digits", classes = [5, 6, 7, 8, 9] }]
fractions = [0.01, 0.1, 1.0]
scores = [{ kind = "linear-probe" }]
sets.dm-10 = { method = { name = "dm" }, ipc = 10 }
rows = [
  { kind = "none" },
  { kind = "set", set = "dm-10" },
  { kind = "random", like = "dm-10" },
]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from dd_apps.data import Data, DataScenario
from dd_apps.task import Outcome
from dd_apps.transfer.settings import ScoringConfig
from dd_core.config import Config, checked, decode, plain
from dd_core.datasets import check_name
from dd_core.distilled import Size
from dd_core.errors import UserError, unknown_name
from dd_core.methods import decode_method
from dd_core.networks.import_paths import check_network, is_import_path
from dd_core.recipe import Recipe
from dd_core.training.feature_teacher_config import FeatureTeacherConfig

if TYPE_CHECKING:
    from dd_core.runner import RunOptions

FILE = ".safetensors"  # suffix of `set` and `like` where they name a file
Overrides = dict[str, JsonValue]
ClassNumber = Annotated[int, Field(ge=0)]


def overridden(recipe: Recipe, changes: Overrides) -> Recipe:
    """The recipe with other values of some fields; raises `UserError` for unknown fields and wrong values."""
    return decode(Recipe, {**plain(recipe), **changes}, key="recipe") if changes else recipe


def _checked_changes(changes: Overrides) -> Overrides:
    try:
        overridden(Recipe(), changes)
    except UserError as error:
        raise ValueError(error.text.removeprefix("recipe.")) from None
    return changes


# --- rows: the images of pre-training ----------------------------------------------------------------------------


class MadeSet(Config):
    """A distilled set that is made from the source's training images, before any pre-training."""

    method: dict[str, JsonValue] = Field(description="name of the distillation method, and its options")
    ipc: int | None = Field(default=None, ge=1, description="images per class of the set")
    images: int | None = Field(default=None, ge=1, description="images of the set in all, instead of ipc")
    seed: int = Field(default=0, ge=0, description="seed of the distillation; with anew, of the first distillation")
    labels: bool = Field(default=True, description="true: the method sees the source's labels; false: it sees none")
    anew: bool = Field(
        default=False,
        description="true: each seed of the scenario distils a set of its own, and tests are about the method; false: "
        "all seeds use one set, and tests are about that set",
    )

    @model_validator(mode="after")
    def _can_be_made(self) -> MadeSet:
        if (self.ipc is None) == (self.images is None):
            raise ValueError("give either ipc (images per class) or images (in all)")
        try:
            decode_method(self.method)
        except UserError as error:
            raise ValueError(error.text) from None
        return self

    @property
    def size(self) -> Size:
        """The size of the set."""
        return Size(ipc=self.ipc, images=self.images)


class _Row(Config):
    name: str = Field(default="", description="name of the row in tables; empty: a name made from its values")

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets that the row names."""
        return ()

    @property
    def own_name(self) -> str:
        """A name made of the row's values."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        """The row's name in tables."""
        return self.name or self.own_name


class NoRow(_Row):
    """Backbones with their initial weights."""

    kind: Literal["none"] = Field(default="none", description="no pre-training")

    @property
    def own_name(self) -> str:
        """A fixed name."""
        return "no pre-training"


class SetRow(_Row):
    """Backbones that are pre-trained on a set."""

    kind: Literal["set"] = Field(default="set", description="pre-training on a distilled set")
    set: str = Field(description="name of a set of the scenario, or a file *.safetensors")
    like: str | None = Field(
        default=None,
        description="another set (name or file) with features: the teacher of that set gives the row's images their "
        "targets, and its normalisation and recipe are used; none: the row's set keeps its own targets and recipe",
    )
    recipe: Overrides = Field(default={}, description="changed fields of the recipe of pre-training, such as epochs")

    _recipe_is_known = field_validator("recipe")(_checked_changes)

    @property
    def sets(self) -> tuple[str, ...]:
        """The row's set, and the set whose teacher gives the targets."""
        return (self.set,) if self.like is None else (self.set, self.like)

    @property
    def own_name(self) -> str:
        """The name of the set."""
        stem = Path(self.set).stem if self.set.endswith(FILE) else self.set
        return stem if self.like is None else f"{stem}, teacher's features"


class RealRow(_Row):
    """Backbones that are pre-trained on real images of the source, chosen for each seed."""

    like: str = Field(
        description="set (name or file) whose number of images, normalisation and recipe are used for the real images"
    )
    images: int | None = Field(
        default=None, ge=1, description="number of real images; none: as many as the set of `like` has"
    )
    recipe: Overrides = Field(default={}, description="changed fields of the recipe of pre-training, such as epochs")

    _recipe_is_known = field_validator("recipe")(_checked_changes)

    @property
    def sets(self) -> tuple[str, ...]:
        """The set whose size, normalisation and recipe are used."""
        return (self.like,)

    def _name(self, chosen: str, learned: str) -> str:
        like = Path(self.like).stem if self.like.endswith(FILE) else self.like
        count = "" if self.images is None else f"{self.images} "
        return f"{count}{chosen} real like {like}, {learned}"


class RandomRow(RealRow):
    """Real images that are drawn at random."""

    kind: Literal["random"] = Field(default="random", description="pre-training on random real images of the source")
    targets: Literal["features", "labels"] = Field(
        default="labels",
        description="targets of the random real images: features by the teacher of the set `like`, or the real labels",
    )

    @property
    def own_name(self) -> str:
        """A name of the set `like` and the kind of targets."""
        return self._name("random", "teacher's features" if self.targets == "features" else "labels")


class HighLossRow(RealRow):
    """The real images on which a network has the highest loss after it learned the teacher's features of all images."""

    kind: Literal["high-loss"] = Field(
        default="high-loss",
        description="pre-training on the real images with the highest loss of a network that was trained on all images "
        "of the source, with features by the teacher of the set `like`",
    )
    epochs: int = Field(
        default=5, ge=1, description="epochs, on all images of the source, of the network whose loss chooses images"
    )

    @property
    def own_name(self) -> str:
        """A name of the set `like`."""
        return self._name("high-loss", "teacher's features")


class WholeRow(_Row):
    """Backbones that learn the whole source without labels: an upper bound for distilled sets."""

    kind: Literal["whole"] = Field(
        default="whole", description="self-supervised pre-training on all images of the source, an upper bound"
    )
    teacher: FeatureTeacherConfig = Field(
        default=FeatureTeacherConfig(),
        description="settings of self-supervised pre-training; network and seed are those of the backbone",
    )

    @property
    def own_name(self) -> str:
        """A name of the objective."""
        return f"whole source, {self.teacher.objective}"


RowConfig = Annotated[NoRow | SetRow | RandomRow | HighLossRow | WholeRow, Field(discriminator="kind")]


# --- targets -----------------------------------------------------------------------------------------------------


class TargetConfig(Config):
    """Labelled real images that pre-trained backbones are scored on, at the image size of the source."""

    data: str = Field(description="data set by name, or folder:PATH")
    classes: tuple[ClassNumber, ...] = Field(
        default=(), description="classes of the target that are used, by position from 0; empty: all"
    )
    train: int | None = Field(
        default=None, ge=1, description="number of the target's training images, drawn by the seed; none: all"
    )
    test: int | None = Field(
        default=None, ge=1, description="number of the target's test images, drawn by the seed; none: all"
    )
    name: str = Field(default="", description="name of the target in tables; empty: its data and classes")

    _data_is_known = field_validator("data")(lambda data: checked(data, check_name))

    @property
    def called(self) -> str:
        """The target's name in tables."""
        classes = f", classes {' '.join(map(str, self.classes))}" if self.classes else ""
        return self.name or f"{self.data}{classes}"


class TransferScenario(DataScenario):
    """Backbones that are pre-trained on the images of several rows, and scored on several targets."""

    data: str = Field(description="source of distilled and random images: name of a data set, or folder:PATH")
    labelled: bool = Field(
        default=True, description="true: the source has labels; false: it has none, as a folder without class folders"
    )
    classes: tuple[ClassNumber, ...] = Field(
        default=(), description="classes of the source that are used, by position from 0; empty: all"
    )
    images: int | None = Field(
        default=None, ge=2, description="number of the source's training images, drawn by the seed; none: all"
    )
    sets: dict[str, MadeSet] = Field(
        default={}, description="distilled sets that are made first, by the name that rows use in `set` and `like`"
    )
    rows: tuple[RowConfig, ...] = Field(
        min_length=1, description="rows that are compared, each with the images that backbones are pre-trained on"
    )
    recipe: Overrides = Field(
        default={}, description="changed fields of the recipe of pre-training in every row, such as epochs"
    )
    backbones: tuple[str, ...] = Field(
        min_length=1, description="networks by name, or module:Class, that are pre-trained and scored"
    )
    targets: tuple[TargetConfig, ...] = Field(min_length=1, description="labelled images that backbones are scored on")
    scores: tuple[ScoringConfig, ...] = Field(
        min_length=1, description="ways to score backbones (linear-probe, sgd-probe, knn, fine-tune), and their options"
    )
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.01, 0.05, 0.1, 0.5, 1.0),
        min_length=1,
        description="fractions of the target's training labels that probes and fine-tuning learn from, drawn by the "
        "seed",
    )
    seeds: int = Field(default=3, ge=1, description="number of seeds, counted from `seed`; tests are paired over seeds")
    seed: int = Field(default=0, ge=0, description="first seed: of weights, training, and the random images and labels")
    keep_weights: bool = Field(
        default=False, description="true: files of all pre-trained backbones are kept; false: they are removed"
    )
    workers: int = Field(default=1, ge=1, description="number of backbones that are trained or scored in parallel")

    _recipe_is_known = field_validator("recipe")(_checked_changes)

    @field_validator("backbones")
    @classmethod
    def _backbones_have_names(cls, backbones: tuple[str, ...]) -> tuple[str, ...]:
        for name in backbones:
            checked(name, check_network)
        return backbones

    @model_validator(mode="after")
    def _fits_together(self) -> TransferScenario:
        for what, names in {
            "rows": [row.called for row in self.rows],
            "backbones": self.backbones,
            "targets": [target.called for target in self.targets],
            "scores": [score.called for score in self.scores],
            "fractions": [f"{fraction:g}" for fraction in self.fractions],
        }.items():
            _require_distinct(what, names)
        used = {name for row in self.rows for name in row.sets}
        for name in self.sets:
            if name.endswith(FILE) or Path(name).name != name or not name:
                raise ValueError(f"sets: '{name}': expected a plain name such as dm-10, not a file")
            if name not in used:
                raise ValueError(f"sets: no row uses '{name}'")
        whole = [row.called for row in self.rows if isinstance(row, WholeRow)]
        for name in self.backbones:
            if whole and is_import_path(name):
                raise ValueError(f"rows: '{whole[0]}' pre-trains networks by name, and '{name}' is an import path")
        for name in sorted(used):
            if name not in self.sets and not name.endswith(FILE):
                raise ValueError(f"rows: {unknown_name('set', name, [*self.sets, f'a file *{FILE}']).text}")
        return self

    @property
    def real_images(self) -> Data:
        """The source; `Data.load` loads one split of it."""
        return Data(self.data, self.image_size, self.skip_corrupt, self.labelled)

    @property
    def all_seeds(self) -> range:
        """The seeds of the comparison."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def title(self) -> str:
        """Source, targets and backbones, on one line."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        targets = "; ".join(target.called for target in self.targets)
        backbones = self.backbones[0] if len(self.backbones) == 1 else f"{len(self.backbones)} backbones"
        return f"transfer from {self.data}{size} to {targets}, {backbones}"

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Make sets, pre-train, score, and compare."""
        from dd_apps.transfer.task import run_task  # loads torch

        return run_task(self, folder, options)


def _require_distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise ValueError(f"{what}: '{name}' is there twice; expected each name once")
