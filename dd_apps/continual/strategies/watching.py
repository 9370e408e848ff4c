"""Avalanche's own loggers, which write training and test metrics beside the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dd_apps.continual.adapter import warnings_contained
from dd_apps.continual.config import Logger
from dd_core.store import disk_errors

with warnings_contained():
    from avalanche.logging import CSVLogger, TensorboardLogger, TextLogger


@contextmanager
def loggers(names: Sequence[Logger], folder: Path) -> Iterator[list[Any]]:
    """The loggers of these names, each with files of its own in `folder`, closed after the block."""
    with ExitStack() as closing, disk_errors(folder):
        yield [closing.enter_context(_logger(name, folder)) for name in names]


@contextmanager
def _logger(name: Logger, folder: Path) -> Iterator[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    if name == "text":
        with open(folder / "log.txt", "w") as file:
            yield TextLogger(file)
        return
    logger: Any = TensorboardLogger(str(folder)) if name == "tensorboard" else CSVLogger(str(folder))
    try:
        yield logger
    finally:
        (logger.writer if name == "tensorboard" else logger).close()
