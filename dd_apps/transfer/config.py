"""What the scenarios of the task `transfer` say; imports neither torch nor timm.

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

FILE = ".safetensors"  # what `set` and `like` end in where they name a file
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


# --- what is pre-trained on --------------------------------------------------------------------------------------


class MadeSet(Config):
    """A distilled set that is made of the source's training images first."""

    method: dict[str, JsonValue] = Field(description="name of the distillation method, and its options")
    ipc: int | None = Field(default=None, ge=1, description="images per class of the set")
    images: int | None = Field(default=None, ge=1, description="images of the set in all, instead of ipc")
    seed: int = Field(default=0, ge=0, description="seed of the distillation, or of the first one")
    labels: bool = Field(default=True, description="whether the method sees the source's labels")
    anew: bool = Field(
        default=False,
        description="whether a set is distilled for each seed of the scenario, so that tests are of the method and not "
        "of one set",
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
        """How many images the set has."""
        return Size(ipc=self.ipc, images=self.images)


class _Row(Config):
    name: str = Field(default="", description="what tables call the row; empty: a name made of its values")

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
        """What tables call the row."""
        return self.name or self.own_name


class NoRow(_Row):
    """Backbones with their first weights."""

    kind: Literal["none"] = Field(default="none", description="no pre-training")

    @property
    def own_name(self) -> str:
        """It has no values."""
        return "no pre-training"


class SetRow(_Row):
    """Backbones that are pre-trained on a set."""

    kind: Literal["set"] = Field(default="set", description="pre-training on a distilled set")
    set: str = Field(description="name of a set of the scenario, or a file *.safetensors")
    like: str | None = Field(
        default=None,
        description="set, or file, with features: its teacher gives the images of this set their features, and they "
        "are normalised and learned as its own; none: the set's own targets and recipe",
    )
    recipe: Overrides = Field(default={}, description="fields of the recipe of pre-training that differ")

    _recipe_is_known = field_validator("recipe")(_checked_changes)

    @property
    def sets(self) -> tuple[str, ...]:
        """The set, and the one whose teacher is asked."""
        return (self.set,) if self.like is None else (self.set, self.like)

    @property
    def own_name(self) -> str:
        """The name of the set."""
        stem = Path(self.set).stem if self.set.endswith(FILE) else self.set
        return stem if self.like is None else f"{stem}, teacher's features"


class RealRow(_Row):
    """Backbones that are pre-trained on real images of the source, chosen for each seed."""

    like: str = Field(
        description="set, or file: as many images as it has, normalised as its own, and learned by its recipe"
    )
    images: int | None = Field(default=None, ge=1, description="how many images; none: as many as the set has")
    recipe: Overrides = Field(default={}, description="fields of the recipe of pre-training that differ")

    _recipe_is_known = field_validator("recipe")(_checked_changes)

    @property
    def sets(self) -> tuple[str, ...]:
        """The set that the images are like."""
        return (self.like,)

    def _name(self, chosen: str, learned: str) -> str:
        like = Path(self.like).stem if self.like.endswith(FILE) else self.like
        count = "" if self.images is None else f"{self.images} "
        return f"{count}{chosen} real like {like}, {learned}"


class RandomRow(RealRow):
    """Real images that are drawn."""

    kind: Literal["random"] = Field(default="random", description="pre-training on random real images of the source")
    targets: Literal["features", "labels"] = Field(
        default="labels",
        description="what is learned of the images: features, which the teacher of `like` gives them, or their labels",
    )

    @property
    def own_name(self) -> str:
        """What is learned of them, and which set they are like."""
        return self._name("random", "teacher's features" if self.targets == "features" else "labels")


class HighLossRow(RealRow):
    """Real images whose teacher's features a network learns worst."""

    kind: Literal["high-loss"] = Field(
        default="high-loss",
        description="pre-training on the real images of which a network that learned all of them has the highest loss, "
        "with the features that the teacher of `like` gives them",
    )
    epochs: int = Field(default=5, ge=1, description="passes of that network over all images of the source")

    @property
    def own_name(self) -> str:
        """Which set they are like."""
        return self._name("high-loss", "teacher's features")


class WholeRow(_Row):
    """Backbones that learn the whole source without labels: what a set of it could be worth at most."""

    kind: Literal["whole"] = Field(
        default="whole", description="self-supervised pre-training on all images of the source, an upper bound"
    )
    teacher: FeatureTeacherConfig = Field(
        default=FeatureTeacherConfig(), description="how a backbone is pre-trained; its network and seed are filled in"
    )

    @property
    def own_name(self) -> str:
        """What is learned of the images."""
        return f"whole source, {self.teacher.objective}"


RowConfig = Annotated[NoRow | SetRow | RandomRow | HighLossRow | WholeRow, Field(discriminator="kind")]


# --- what is transferred to --------------------------------------------------------------------------------------


class TargetConfig(Config):
    """Labelled real images that pre-trained backbones are scored on, at the image size of the source."""

    data: str = Field(description="data set by name, or folder:PATH")
    classes: tuple[ClassNumber, ...] = Field(default=(), description="classes by position, from 0; none given: all")
    train: int | None = Field(default=None, ge=1, description="training images that are drawn; none: all")
    test: int | None = Field(default=None, ge=1, description="test images that are drawn; none: all")
    name: str = Field(default="", description="what tables call the target; empty: its data and classes")

    _data_is_known = field_validator("data")(lambda data: checked(data, check_name))

    @property
    def called(self) -> str:
        """What tables call the target."""
        classes = f", classes {' '.join(map(str, self.classes))}" if self.classes else ""
        return self.name or f"{self.data}{classes}"


class TransferScenario(DataScenario):
    """Backbones that are pre-trained on several things, and what they are worth on several targets."""

    data: str = Field(description="source of the distilled and random images: data set by name, or folder:PATH")
    labelled: bool = Field(default=True, description="whether the source has labels; false for images without folders")
    classes: tuple[ClassNumber, ...] = Field(
        default=(), description="classes of the source by position, from 0; none given: all"
    )
    images: int | None = Field(
        default=None, ge=2, description="training images of the source that are drawn; none: all"
    )
    sets: dict[str, MadeSet] = Field(
        default={}, description="distilled sets that are made first, by the name that rows call them"
    )
    rows: tuple[RowConfig, ...] = Field(min_length=1, description="what backbones are pre-trained on")
    recipe: Overrides = Field(
        default={}, description="fields of the recipe of pre-training that differ in every row, such as epochs"
    )
    backbones: tuple[str, ...] = Field(
        min_length=1, description="networks by name, or module:Class, that are pre-trained and scored"
    )
    targets: tuple[TargetConfig, ...] = Field(min_length=1, description="labelled images that backbones are scored on")
    scores: tuple[ScoringConfig, ...] = Field(
        min_length=1, description="how backbones are scored: linear-probe, sgd-probe, knn, fine-tune, and their numbers"
    )
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.01, 0.05, 0.1, 0.5, 1.0),
        min_length=1,
        description="fractions of the target's labels that are learned from, drawn by the seed",
    )
    seeds: int = Field(default=3, ge=1, description="how often all is done: seeds from `seed` on")
    seed: int = Field(
        default=0, ge=0, description="first seed, of weights, training, random images and labels that are drawn"
    )
    keep_weights: bool = Field(default=False, description="whether files of all pre-trained backbones are kept")
    workers: int = Field(default=1, ge=1, description="backbones that are trained or scored at the same time")

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
                raise ValueError(f"sets: '{name}': a set is called by a plain name, such as dm-10, and no file")
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
        """The source, one split of which can be loaded at a time."""
        return Data(self.data, self.image_size, self.skip_corrupt, self.labelled)

    @property
    def all_seeds(self) -> range:
        """The seeds under which all is done."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def title(self) -> str:
        """What is done, from the values: source, targets, backbones."""
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
            raise ValueError(f"{what}: '{name}' is there twice; tables tell them apart by name")
