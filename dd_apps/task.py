"""The contract of a task: a scenario's typed values, and the run that they describe. This page tells how to write one.

1. Subclass `TaskScenario`, or `dd_apps.data.DataScenario` where the task is about real images: a frozen model with a
   field for each key of the scenario's file, a one-line `title`, and `run`, which returns an `Outcome`.
2. Name the class in `dd_apps/scenario.py`, or in another package as an entry point in the group `dd_apps.tasks`.
   A scenario's key `task` is that name.
3. Subclass `dd_apps.testing.TaskConformance` in a test.

The module that has the class imports no torch, because the command line checks a scenario before anything is loaded:
`run` imports what computes. What can be resumed is kept in the folder that `run` is given.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_apps.report.sections import Section
from dd_apps.report.tables import Table
from dd_core.config import Config
from dd_core.distilled import DistilledSet

if TYPE_CHECKING:
    from dd_core.runner import RunOptions


@dataclass(frozen=True)
class Outcome:
    """The results of a task: the sections of its report, distilled sets to be drawn and kept, and all figures for JSON.

    drawn: sets that are pictures in the report and are not kept as files, such as a replay buffer of real images.
    """

    sections: Sequence[Section]
    sets: Mapping[str, DistilledSet]
    details: Mapping[str, Any]
    drawn: Mapping[str, DistilledSet] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table]:
        """The sections that are tables."""
        return [section for section in self.sections if isinstance(section, Table)]


class TaskScenario(Config):
    """Everything that determines the results of one run of a task."""

    @property
    @abstractmethod
    def title(self) -> str:
        """One line that says what the task does, from the values alone."""

    @abstractmethod
    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Run the task, and keep in `folder` what an interrupted run resumes from.

        The same values give the same outcome, whatever an earlier run of them left in `folder`. Raises `UserError`
        where the values ask for something that the data cannot give.
        """
