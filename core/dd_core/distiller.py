"""What a method is. Reading this page is enough to write one.

A method is a frozen config, and the `Distiller` that the config builds.

1. Subclass `MethodConfig`. Give it `name`, and a field for each hyper-parameter, with its unit and the paper's
   symbol in the description. `steps` is the number of outer iterations. A method that has no outer iterations
   subclasses `SelectionConfig` instead, and writes one function.
2. Write a class with `step`, `state_dict`, `load_state_dict` and `export`, by PyTorch's own conventions.
   A method that learns the pixels of images subclasses `PixelsConfig`, and keeps the pixels in a
   `synthetic.Synthetic`, which decodes, clamps, averages and exports them.
3. Add one line to the table in `dd_core/methods/__init__.py`, or in another package an entry point in the
   group `dd_core.methods`, and subclass `dd_core.testing.DistillerConformance` in a test.

The command line lists methods without loading torch. So the config and the distiller are two files: `config.py`
imports no torch, and `distiller.py`, which does, is imported by `build`, or lazily by its package (see `methods/dm`).
A small method that only calls the lazy rooms (`selection`, `networks`, `training`) is one file.

The runner owns the loop, the disk, signals and resuming. A method keeps two promises: every random draw comes from
`context.streams`, so that a resumed run draws the same numbers without stored state; and `step` calls `require_finite`
between computing a gradient and using it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field

from dd_core import artefacts, selection
from dd_core import formation as formations
from dd_core.artefacts import Artefact, ArtefactSpec, Resources
from dd_core.config import Config
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.formation import Factor
from dd_core.recipe import DISTRIBUTIONS, Recipe
from dd_core.streams import Streams
from dd_core.system.budget import Footprint
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Reporter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.images import Source


@dataclass(frozen=True)
class Context:
    """What a run gives a method beside the config; `artefacts` has the artefacts of `config.needs`, by role.

    message: takes a line that the user should see.
    """

    source: Source
    size: Size
    streams: Streams
    device: torch.device
    artefacts: Mapping[str, Artefact] = field(default_factory=dict[str, Artefact])
    message: Callable[[str], None] | None = None

    @staticmethod
    def gather(
        config: MethodConfig,
        source: Source,
        size: Size,
        *,
        seed: int,
        device: torch.device,
        others: Iterable[Source] = (),
        workers: Workers | None = None,
        cache: Path | None = None,
        reporter: Reporter | None = None,
    ) -> Context:
        """The context of a run, with every artefact that the method needs, found or made.

        `others` are further images that artefacts may be made from. Raises what `artefacts.get` raises.
        """
        resources = Resources.of((source, *others), device=str(device))
        made = {
            role: artefacts.get(spec, resources=resources, workers=workers, cache=cache, reporter=reporter)
            for role, spec in config.needs(source, size=size, seed=seed).items()
        }
        message = None if reporter is None else reporter.message
        return Context(source, size, Streams(seed), device, made, message)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many images the set is to have of each class."""
        return self.size.per_class(len(self.source.classes))


@runtime_checkable
class Distiller(Protocol):
    """A distillation under way."""

    def step(self, index: int) -> Mapping[str, float]:
        """One outer iteration; returns what to log. Raises `Diverged` before a non-finite update."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on exactly here."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        ...

    def export(self) -> DistilledSet:
        """The present set, rows in class-major order; the runner adds the provenance."""
        ...


@runtime_checkable
class Compiling(Protocol):
    """A distiller whose inner steps may be compiled or captured: the set's manifest says what became of them."""

    @property
    def inner_steps_taken(self) -> str | None:
        """How inner steps were taken; None where none was taken, or nothing but eager ones were meant."""
        ...


class MethodConfig(Config):
    """What determines a method's run besides source, size and seed.

    `summary` says in a user's words what the method makes.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    steps: int = Field(default=0, ge=0, description="outer iterations")
    recipe: Recipe = Field(
        default=Recipe(), description="how networks train on the set, and the network that the set is for"
    )

    def needs(self, source: Source, *, size: Size, seed: int) -> Mapping[str, ArtefactSpec]:
        """The artefacts that `build` finds in its context, by role ("experts", say); the runner finds or makes them."""
        return {}

    @property
    def starts(self) -> Literal["fresh", "pretrained", "one"]:
        """Initial weights of networks that the sets are for: fresh draws, pre-trained ones, or those of one network."""
        if self.recipe.initialisation in DISTRIBUTIONS:
            return "fresh"
        return "one" if self.recipe.for_one_network else "pretrained"

    @property
    def uses_labels(self) -> bool:
        """Whether the method uses labels; if not, it is given images without labels, and makes sets with features."""
        return True

    def require_labels_used(self, use: str) -> None:
        """Raise `UserError` where sets have no labels, which `use` needs."""
        if not self.uses_labels:
            raise UserError(f"method '{self.name}' makes a set with features and no labels, and {use} needs labels")

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for a source or size that the method cannot take, before artefacts are made.

        `build` may raise more.
        """

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The most bytes that a run takes on `device` beside `source`, as far as it can be told before the start.

        The user is warned where fewer bytes are free. `Footprint(0)`, the default, means unknown: no warning.
        """
        return Footprint(0)

    def rehearsal(self, source: Source, size: Size) -> tuple[MethodConfig, Source] | None:
        """A config and images whose steps take as long as this method's on `source`, but need no long preparation.

        `runner.forecast` times those steps. The default is this config with `source`, if it needs no artefacts; None:
        the steps cannot be timed in advance.
        """
        return None if self.needs(source, size=size, seed=0) else (self, source)

    def pretrained_on(self, other: Source) -> MethodConfig:
        """This config with networks that are pre-trained on `other`; raises `UserError` where it pre-trains none."""
        raise UserError(f"method '{self.name}' pre-trains no networks; leave out the images to pre-train on")

    def build(self, context: Context) -> Distiller:
        """A distiller at step 0; raises `UserError` for what `check` names, and may find more."""
        raise NotImplementedError


class PixelsConfig(MethodConfig):
    """A method that learns the pixels of images; `synthetic.Synthetic` implements the two options."""

    formation: Factor = Field(
        default=1,
        description="multi-formation (IDC): an image is stored as a grid of formation x formation tiles, and networks "
        "see each tile enlarged to a whole image, so that formation^2 images share the bytes of one; 1: networks see "
        "the stored images",
    )
    clamp: bool = Field(
        default=False,
        exclude_if=lambda clamp: not clamp,
        description="bring pixels back into [0, 1], from black to white, after each update of the pixels",
    )

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for images that the formation cannot cut into tiles."""
        formations.require_possible(self.formation, source.image_shape[1:])

    def seen(self, size: Size, classes: int) -> tuple[int, ...]:
        """How many images of each class networks see in a set of `size`: formation^2 for each stored image."""
        return tuple(count * self.formation**2 for count in size.per_class(classes))


class SelectionConfig(MethodConfig):
    """A method without a loop: it chooses or averages real images, class by class."""

    steps: int = Field(default=0, ge=0, le=0, description="outer iterations; this method has none")

    def select(self, context: Context) -> Tensor:
        """(N, C, H, W) raw pixels, uint8 or float in [0, 1]: `context.counts[c]` of each class c, class-major."""
        raise NotImplementedError

    def build(self, context: Context) -> FinishedDistiller:
        """Select; raises `UserError` where a class has too few images."""
        images = self.select(context)
        return FinishedDistiller(selection.real_set(context.source, images, context.counts, self.recipe))


class FinishedDistiller:
    """A distiller without iterations: its set is final when the distiller is built."""

    def __init__(self, ds: DistilledSet) -> None:
        self._set = ds

    def step(self, index: int) -> Mapping[str, float]:
        """Never called, as the method has no steps."""
        raise IndexError(f"step {index} of a method without steps")

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    def export(self) -> DistilledSet:
        """The set."""
        return self._set
