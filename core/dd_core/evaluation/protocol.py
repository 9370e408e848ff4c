"""What a protocol is. Reading this page is enough to write one.

A protocol says how a network is trained on a set before the network is scored. The set's random-real twin goes through
the same protocol.

1. Subclass `EvaluationProtocol`. Give it `name`, `description`, and in `changes` the fields of a set's own `Recipe`
   that the protocol replaces. Most protocols need nothing else.
2. A protocol that chooses among settings on validation images lists their values in `grid`; a protocol that uses only
   a part of a set overrides `prepare`; a protocol that trains something else than the recipe's network overrides
   `learner`, `fit` and `score`.
3. Add one line to the table in `dd_core/evaluation/protocols/__init__.py`, or in another package an entry point in the
   group `dd_core.protocols`, and subclass `dd_core.testing.ProtocolConformance` in a test.

A protocol keeps three promises: it has no state, because kept scores name it by `name` and `version` alone; every
random draw comes from `streams`; and its module imports no torch, because the command line lists protocols without
torch (heavy packages are imported inside `fit`, `prepare` or `score`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from dd_core import training
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dd_core.artefacts import Artefact
    from dd_core.images import InputForm, Source
    from dd_core.streams import Streams
    from dd_core.training import TrainingData
    from dd_core.training.bank import Bank
    from dd_core.training.own_augmentation import Augmentation

Setting = dict[str, Any]  # numbers by the name of the field that they replace


class EvaluationProtocol:
    """A named way to train a network on a set and to score the network; by default by the recipe with `changes`."""

    name: ClassVar[str]
    description: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when scores change: scores that were kept before are then ignored
    changes: ClassVar[Mapping[str, Any]] = {}
    grid: ClassVar[Mapping[str, Sequence[int | float]]] = {}
    trains_networks: ClassVar[bool] = True  # False: there are no weights, and a set has one score

    def check(self, networks: Sequence[str] = (), *, start: bool = False) -> None:
        """Raise `UserError` where `networks` or their initial weights (`start`) are given, and none is trained."""
        if self.trains_networks:
            return
        if networks:
            raise UserError(f"protocol '{self.name}' trains no network, and '{networks[0]}' is given; leave it out")
        if start:
            raise UserError(f"protocol '{self.name}' trains no network; leave out the initial weights")

    def prepare(self, ds: DistilledSet, *, train: Source) -> DistilledSet:
        """The part of `ds` that the protocol uses; by default all. train: real images, for their statistics."""
        del train
        return ds

    def recipe(self, own: Recipe, *, source_name: str) -> Recipe:
        """The set's recipe `own` with the protocol's changes; source_name: digits' images are not mirrored.

        Raises `UserError` for a set for one particular network where the protocol has another initialisation.
        """
        recipe = own.model_copy(update=dict(self.changes)).for_source(source_name)
        if own.for_one_network and not recipe.for_one_network:
            raise UserError(
                f"protocol '{self.name}' trains a {recipe.network}, and this set is for one {own.network} only; take "
                "another protocol"
            )
        return recipe

    def settings(self, *, images: int) -> list[Setting]:
        """All settings that validation images choose among, for a set of `images` images; empty: nothing is chosen.

        The choice is made separately for a set and for its twins. A setting's values replace fields of the recipe.
        """
        del images
        points = product(*self.grid.values()) if self.grid else ()
        return [dict(zip(self.grid, values, strict=True)) for values in points]

    def learner(self, recipe: Recipe) -> str:
        """The name of what is trained, for messages and results: by default the network of `recipe`."""
        return recipe.network

    def fit(
        self,
        data: TrainingData,
        recipe: Recipe,
        *,
        setting: Setting,
        streams: Streams,
        device: torch.device,
        start: Artefact | None = None,
        index: int = 0,
        teacher: Artefact | None = None,
        bank: Bank | None = None,
        model: nn.Module | None = None,
        augmentation: Augmentation | None = None,
    ) -> nn.Module:
        """A network, in evaluation mode, that was trained on `data` by `recipe` with the values of `setting`.

        The network is fresh, or network `index` of the pool `start`, or `model`, trained in place from its own weights.
        augmentation: replaces the recipe's. teacher: labels views, where the recipe has a teacher; bank: has the views
        of `data` with these labels already. Raises `Diverged`.
        """
        recipe, lessons = recipe.model_copy(update=setting), data
        if bank is not None:
            lessons, teacher = bank.lessons(data, temperature=recipe.temperature), None
            recipe = recipe.model_copy(update={"views": None, "teacher": "none"})
        return training.fit(
            lessons,
            recipe.network if model is None else model,
            recipe,
            streams=streams,
            device=device,
            start=start,
            index=index,
            teacher=None if teacher is None else training.asked(teacher, mode=recipe.teacher),
            augmentation=augmentation,
        )

    def score(self, model: nn.Module, test: Source, form: InputForm, *, device: torch.device) -> float:
        """The fraction in [0, 1] of the images of `test`, as inputs of `form`, that `model` classifies rightly."""
        return training.accuracy(model, test, form, device=device)
