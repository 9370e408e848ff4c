"""Search spaces as a scenario writes them; imports neither torch nor nni. `spaces.of` makes the space of a config.

space = { name = "convnets", max_width = 128 }
space = { name = "cells", channels = 8, modules = 1 }
space = { name = "own", model = "my_package.spaces:MySpace", arguments = { width = 16 } }
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from dd_core.config import Config


class ConvNetsConfig(Config):
    """The literature's ConvNets, 720 of them at 32 px."""

    name: Literal["convnets"] = "convnets"
    max_width: int = Field(
        default=256,
        ge=32,
        description="channels of the widest ConvNets; the space has the widths 32, 64, 128 and 256 up to this number",
    )


class CellsConfig(Config):
    """The 15,625 cells of NAS-Bench-201."""

    name: Literal["cells"] = "cells"
    channels: int = Field(default=16, ge=1, description="channels of the first stack of cells; NAS-Bench-201 has 16")
    modules: int = Field(default=5, ge=1, description="cells in a stack; NAS-Bench-201 has 5")


class OwnConfig(Config):
    """A user's own space."""

    name: Literal["own"]
    model: str = Field(description="class of the space, a ModelSpace of NNI, as module:Class")
    arguments: dict[str, JsonValue] = Field(default={}, description="keyword arguments that make the space")

    @field_validator("model")
    @classmethod
    def _names_a_class(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
            raise ValueError("expected module:Class, as in my_package.spaces:MySpace")
        return name


SpaceConfig = Annotated[ConvNetsConfig | CellsConfig | OwnConfig, Field(discriminator="name")]
