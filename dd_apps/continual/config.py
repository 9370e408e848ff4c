"""What a continual-learning scenario says: data, experiences, memory, and the two ways of training with it.

Neither torch nor Avalanche is imported here, so that a command line can check a scenario at once.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from dd_core.config import Config
from dd_core.errors import UserError
from dd_core.methods import decode_method

Row = Literal["distilled", "average", "real", "real-adaptive", "none", "joint"]
Table = Literal["retraining", "replay"]
TABLES: tuple[Table, ...] = ("retraining", "replay")


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


class ContinualScenario(Config):
    """A class-incremental benchmark: both tables, every row, several class orders."""

    data: str = Field(description="data set, or folder:PATH")
    image_size: int | None = Field(default=None, ge=4, description="pixels a side; None keeps the images as they are")
    skip_corrupt: bool = Field(default=False, description="leave out images that cannot be decoded")
    experiences: int = Field(default=5, ge=2, description="parts that the classes arrive in")
    orders: int = Field(default=3, ge=1, description="class orders, each a permutation drawn by the seed")
    images_per_class: int = Field(default=1, ge=1, description="images that the memory keeps of a class")
    method: dict[str, JsonValue] = Field(
        default={"name": "dm"}, description="method of the row 'distilled', and its options"
    )
    network: str = Field(default="convnet-3-w32", description="network that learns")
    seed: int = Field(default=0, ge=0, description="seed of everything")
    rows: tuple[Row, ...] = Field(
        default=("distilled", "average", "real", "none", "joint"), min_length=1, description="what is compared"
    )
    retraining: Retraining = Field(default=Retraining(), description="the table 'retraining'")
    replay: Replay = Field(default=Replay(), description="the table 'replay'")
    workers: int = Field(default=2, ge=1, description="jobs at the same time; results do not depend on it")

    @model_validator(mode="after")
    def _fits_together(self) -> ContinualScenario:
        if len(set(self.rows)) != len(self.rows):
            raise ValueError("rows: each may be named once")
        try:
            decode_method(self.method)
        except UserError as error:
            raise ValueError(str(error)) from None
        if "distilled" in self.rows and self.method["name"] in self.rows:
            raise ValueError(f"rows: '{self.method['name']}' is the row 'distilled' already")
        return self

    def memory_method(self, row: Row) -> dict[str, Any] | None:
        """The distillation method of a row, or None where the row keeps real images or nothing."""
        return {"distilled": dict(self.method), "average": {"name": "average"}}.get(row)
