"""Who runs independent jobs: a value that a user can give, without what it takes to run them."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from dd_core.config import Config
from dd_core.errors import Option, unknown_name

Engine = Literal["processes", "ray", "dask"]


class Workers(Config):
    """Who runs independent jobs. `threads` can change the last bits of a result, `count` and `engine` cannot."""

    count: int = Field(default=1, ge=1, description="jobs that run at the same time")
    engine: Engine = Field(
        default="processes", description="what runs the jobs: processes of this machine, or a cluster of Ray or Dask"
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of each job")


def check_engine(name: str) -> Engine:
    """`name` as an engine; raises `UserError` for an unknown one."""
    for engine in get_args(Engine):
        if name == engine:
            return engine
    raise unknown_name(f"engine for {Option('parallel')}", name, get_args(Engine))
