"""What a method is. Reading this page is enough to write one.

A method is a frozen config, and the `Distiller` that the config builds.

1. Subclass `MethodConfig`. Give it `name`, and a field for each hyper-parameter, with its unit and the paper's
   symbol in the description. `steps` is the number of outer iterations. A method without any subclasses
   `SelectionConfig` instead, and has one function to write.
2. Write a class with `step`, `state_dict`, `load_state_dict` and `export`, by PyTorch's own conventions.
   A method that learns the pixels of images subclasses `PixelsConfig`, and keeps them in a `synthetic.Synthetic`,
   which starts, decodes, clamps, averages and exports them.
3. Add one line to the table in `dd_core/methods/__init__.py`, or in another package an entry point in the
   group `dd_core.methods`, and subclass `dd_core.testing.DistillerConformance` in a test.

The command line lists methods without loading torch, so the config and the distiller are two files, `config.py`
without torch and `distiller.py` with it; `build` imports the second, or a package loads it lazily (`methods/dm`).
A small method that only calls the lazy rooms (`selection`, `networks`, `training`) is one file.

The runner owns the loop, the disk, signals and resuming. A method keeps two promises: every random draw comes from
`streams` (never stored, so that a resumed run draws the same numbers); `step` calls `require_finite` between
computing a gradient and using it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """What a run gives a method beside its config; `artefacts` are those of `needs`, by role."""

    source: Source
    size: Size
    streams: Streams
    device: torch.device
    artefacts: Mapping[str, Artefact] = field(default_factory=dict[str, Artefact])

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
        return Context(source, size, Streams(seed), device, made)

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
        """Take up a state of `state_dict`."""
        ...

    def export(self) -> DistilledSet:
        """The set as it is now, rows in class-major order; the runner adds the provenance."""
        ...


class MethodConfig(Config):
    """What determines a method's run besides source, size and seed.

    `summary` says in a user's words what the method makes.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    steps: int = Field(default=0, ge=0, description="outer iterations")
    recipe: Recipe = Field(
        default=Recipe(), description="how networks train on the set, and the network that it is for"
    )

    def needs(self, source: Source, *, size: Size, seed: int) -> Mapping[str, ArtefactSpec]:
        """The artefacts that `build` finds in its context, by role ("experts", say); the runner finds or makes them."""
        return {}

    @property
    def starts(self) -> Literal["fresh", "pretrained", "one"]:
        """Where networks start that its sets are for: fresh draws, pre-trained ones, or one particular network."""
        if self.recipe.initialisation in DISTRIBUTIONS:
            return "fresh"
        return "one" if self.recipe.for_one_network else "pretrained"

    @property
    def uses_labels(self) -> bool:
        """Whether it looks at labels; one that does not is given images without them, and its sets have features."""
        return True

    def require_labels_used(self, use: str) -> None:
        """Raise `UserError` where sets have no labels, which `use` needs."""
        if not self.uses_labels:
            raise UserError(f"method '{self.name}' makes a set with features and no labels, and {use} needs labels")

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for what cannot be, before anything is made for it; `build` may find more."""

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The most bytes that a run takes beside `source`, as far as it can be told before the start.

        A user is warned where `device` has fewer free. By default nothing is known, and nobody is warned.
        """
        return Footprint(0)

    def rehearsal(self, source: Source, size: Size) -> tuple[MethodConfig, Source] | None:
        """A config and images whose steps take as long as this method's on `source`, and which need little beforehand.

        `runner.forecast` times them. By default the method itself, where it needs no artefact; None where steps cannot
        be rehearsed.
        """
        return None if self.needs(source, size=size, seed=0) else (self, source)

    def pretrained_on(self, other: Source) -> MethodConfig:
        """The same, with networks that are pre-trained on `other`; raises `UserError` where none are."""
        raise UserError(f"method '{self.name}' pre-trains no networks; leave out the images to pre-train on")

    def build(self, context: Context) -> Distiller:
        """A distiller at step 0; raises `UserError`."""
        raise NotImplementedError


class PixelsConfig(MethodConfig):
    """A method that learns the pixels of images which networks are fed; `dd_core.synthetic` does what it says."""

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
        """Raise `UserError` for images that are no grid of tiles."""
        formations.require_possible(self.formation, source.image_shape[1:])

    def seen(self, size: Size, classes: int) -> tuple[int, ...]:
        """How many images of each class networks see of a set of that size."""
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
    """A distiller that has nothing to iterate: its set is final when it is built."""

    def __init__(self, ds: DistilledSet) -> None:
        self._set = ds

    def step(self, index: int) -> Mapping[str, float]:
        """Never called: such a method has no steps."""
        raise IndexError(f"step {index} of a method without steps")

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    def export(self) -> DistilledSet:
        """The set."""
        return self._set
