"""A reporter that writes metrics as scalars for TensorBoard, beside any other reporter.

distill("dm", images, 1, options=RunOptions(reporter=TensorBoard("logs", Progress())))
# tensorboard --logdir logs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dd_core.errors import NotInstalled
from dd_core.system.reporter import Reporter, Silent, Stage

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    raise NotInstalled("writing for TensorBoard needs its package: pip install tensorboard") from None


class TensorBoard:
    """A reporter that writes each metric of a stage as `STAGE/METRIC`, and hands everything on to `reporter`.

    The x-axis counts the stage's units. A stage within another one is named with the unit that it belongs to, as in
    `networks 2/epochs/loss`. A resumed run continues its curves: scalars of steps that are done again are replaced.
    """

    def __init__(self, folder: Path | str, reporter: Reporter | None = None) -> None:
        """Event files go to `folder`, which is made with the first metric."""
        self.folder, self.reporter = Path(folder), reporter or Silent()
        self._writer: Any = None
        self._stages: list[_Scalars] = []

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stage]:
        """A stage whose metrics are written; the file is complete when the outermost stage has ended."""
        place = "/".join([*(f"{stage.name} {stage.done + 1}" for stage in self._stages), name])
        with self.reporter.stage(name, total=total, first=first) as stage:
            scalars = _Scalars(self, name, place, stage, first)
            self._stages.append(scalars)
            try:
                yield scalars
            finally:
                self._stages.pop()
                if not self._stages and self._writer is not None:
                    self._writer.close()
                    self._writer = None

    def message(self, text: str) -> None:
        """Hand a line for the user on to `reporter`."""
        self.reporter.message(text)

    def write(self, tag: str, value: float, *, step: int) -> None:
        """Write one scalar at `step` of the curve `tag`."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        self._writer.add_scalar(tag, value, step)


class _Scalars:
    """A stage under way."""

    def __init__(self, board: TensorBoard, name: str, place: str, stage: Stage, first: int) -> None:
        self.name, self.done = name, first
        self._board, self._place, self._stage = board, place, stage

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        for name, value in (metrics or {}).items():
            self._board.write(f"{self._place}/{name}", value, step=self.done)
        self.done += 1
        self._stage.advance(metrics)
