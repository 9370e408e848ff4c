"""Real images by the name that a user gives: options and loading that all tasks share. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from dd_apps.task import TaskScenario
from dd_core import datasets
from dd_core.distilled import DistilledSet
from dd_core.errors import Option, UserError
from dd_core.system.parallel import Workers

if TYPE_CHECKING:
    from dd_core.images import Source


class DataScenario(TaskScenario):
    """The keys of a scenario that name its real images."""

    data: str = Field(description="data set by name, or folder:PATH")
    image_size: int | None = Field(
        default=None, ge=1, description="side in pixels that images are resized to; none: images keep their own size"
    )
    skip_corrupt: bool = Field(default=False, description="leave out images that cannot be decoded")

    @property
    def real_images(self) -> Data:
        """The scenario's real images; `Data.load` loads one split of them."""
        return Data(self.data, self.image_size, self.skip_corrupt)


@dataclass(frozen=True)
class Data:
    """Real images by name, as the user asked for them."""

    name: str
    image_size: int | None = None
    skip_corrupt: bool = False
    labelled: bool = True
    _told: set[str] = field(default_factory=set, init=False, compare=False, repr=False)

    def load(self, split: str, *, workers: Workers | None = None, say: Callable[[str], None] | None = None) -> Source:
        """The images of one split; raises `UserError`.

        `say` receives messages about the images, each message once even if it holds for several splits.
        """
        heard = None if say is None else datasets.once(say, self._told)
        return datasets.load(
            self.name,
            split=split,
            image_size=self.image_size,
            skip_corrupt=self.skip_corrupt,
            labelled=self.labelled,
            workers=workers,
            progress=heard,
        )


def to_pretrain_on(
    name: str | None,
    source: Source,
    *,
    skip_corrupt: bool,
    workers: Workers | None = None,
    say: Callable[[str], None] | None = None,
) -> Source | None:
    """The training images called `name`, resized to those of `source`; None where no name is given."""
    if name is None:
        return None
    height, width = source.image_shape[1:]
    return Data(name, height if height == width else None, skip_corrupt).load("train", workers=workers, say=say)


def data_of(ds: DistilledSet, given: str | None, *, skip_corrupt: bool) -> Data:
    """The real images to score a set on, at the set's image size: `given`, else the data that the set is made from.

    Raises `UserError` where nothing is given and the set's manifest names no data set.
    """
    height, width = ds.images.shape[2:]
    size = height if height == width else None
    made = ds.manifest.provenance
    if given is not None:
        return Data(given, size, skip_corrupt)
    if made is None or made.source == "folder":
        origin = "does not say what it was made from" if made is None else "was made from a folder"
        raise UserError(f"the set {origin}; name the real images: {Option('data', 'folder:PATH')}")
    return Data(made.source, size, skip_corrupt)


def images_a_class(ipc: int) -> str:
    """`1 image a class`, `10 images a class`."""
    return f"{ipc} image{'' if ipc == 1 else 's'} a class"
