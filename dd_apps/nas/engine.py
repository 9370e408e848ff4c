"""NNI's execution engine over our `Pool`: the models of a strategy run in this process, on workers or on a cluster.

NNI's manager and its server are not involved, and nothing is written. Batches make a search deterministic: a strategy
proposes `batch` models, all of them run, and the strategy gets their results in the order of its proposals, whatever
the number of workers. A strategy waits in `idle_worker_available`; NNI's own engines return at once from this method,
and the strategy then sleeps for a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from dd_apps.nas.spaces import Sample
from dd_apps.nas.trials import Attempt, Outcome, TrialFunction, died, key_of
from dd_core.system.parallel import Pool

from nni.nas.execution import ExecutionEngine  # isort: skip (spaces imports nni without its warnings)
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent  # isort: skip
from nni.nas.space import ExecutableModelSpace, ModelStatus  # isort: skip


class Ledger:
    """The outcomes of a search's earlier calls, to which those of this call are added; this base class keeps none."""

    order: Sequence[int] = ()  # the recorded trials, in the order in which they ended

    def recall(self, index: int, sample: Sample) -> Outcome | None:
        """The outcome of trial `index` in an earlier call, if it ended there."""
        del index, sample

    def note(self, index: int, sample: Sample, outcome: Outcome) -> None:
        """Record that a trial has ended."""


@dataclass(frozen=True, eq=False)
class Submission:
    """A model that a strategy submitted, the `index`-th of its search."""

    index: int
    model: ExecutableModelSpace
    sample: Sample


class PoolExecutionEngine(ExecutionEngine):
    """Runs `trial` of each model's sample on an open `Pool`; see the module.

    A trial that raises, or whose value is no finite number, has failed and reports no metric to NNI. A sample that was
    tried before gets the same outcome again, unless trials are `noisy`. At most `max_trials` models are accepted.
    """

    def __init__(
        self,
        pool: Pool,
        trial: TrialFunction,
        *,
        max_trials: int,
        batch: int = 1,
        noisy: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__()
        self.max_trials, self.batch, self.noisy = max_trials, batch, noisy
        self.outcomes: dict[int, Outcome] = {}
        self._pool, self._attempt, self._ledger = pool, Attempt(trial), ledger or Ledger()
        self._submissions: list[Submission] = []
        self._waiting: list[Submission] = []  # submitted models whose results the strategy does not have yet
        self._first: dict[str, int] = {}  # the first trial of each sample

    # --- what NNI's strategies call ---------------------------------------------------------------------------------

    def submit_models(self, *models: ExecutableModelSpace) -> None:
        """Accept frozen models; raises RuntimeError for other models, and beyond the budget."""
        for model in models:
            if not model.status.frozen() or model.status.completed() or model.sample is None:
                raise RuntimeError(f"only a frozen model can be submitted, not {model}")
            if not self.budget_available():
                raise RuntimeError(f"the budget of {self.max_trials} trials is spent")
            model.status = ModelStatus.Training
            submission = Submission(len(self._submissions), model, model.sample)
            self._submissions.append(submission)
            self._waiting.append(submission)
            self._accept(submission)

    def list_models(self, status: ModelStatus | None = None) -> list[ExecutableModelSpace]:
        """The submitted models, in order; with a status, only the models that have this status."""
        models = [submission.model for submission in self._submissions]
        return models if status is None else [model for model in models if model.status == status]

    def idle_worker_available(self) -> bool:
        """Wait until there is room for another model; always returns True."""
        while len(self._waiting) >= self.batch:
            self._advance()
        return True

    def wait_models(self, *models: ExecutableModelSpace) -> None:
        """Wait until the models (none given: all) have ended; raises RuntimeError for one that was not submitted."""
        while any(not model.status.completed() for model in models or self.list_models()):
            if not self._waiting:
                raise RuntimeError("a model that was not submitted does not end")
            self._advance()

    def budget_available(self) -> bool:
        """Whether another model may be submitted."""
        return len(self._submissions) < self.max_trials

    def shutdown(self) -> None:
        """End trials that still run; here there are none."""

    def state_dict(self) -> dict[str, Any]:
        """The number of submitted models; a search resumes from its ledger, not from this state."""
        return {"submitted": len(self._submissions)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Accept the state of an engine without models; raises RuntimeError for any other state."""
        if state_dict["submitted"]:
            raise RuntimeError("an engine with models goes on by the journal of its search, not by its state")

    # --- trials -----------------------------------------------------------------------------------------------------

    def trials(self) -> list[tuple[Sample, Outcome]]:
        """Sample and outcome of each model that has ended, in the order of submission."""
        ended = [submission for submission in self._submissions if submission.index in self.outcomes]
        return [(submission.sample, self.outcomes[submission.index]) for submission in ended]

    def _accept(self, submission: Submission) -> None:
        """Look up a recorded outcome of a model that was just submitted."""
        index = submission.index
        self._first.setdefault(key_of(submission.sample), index)
        remembered = self._ledger.recall(index, submission.sample)
        if remembered is not None:
            self.outcomes[index] = remembered

    def _repeats(self, submission: Submission) -> int | None:
        """The index of the first trial of the same sample; None for a new sample, and for noisy trials."""
        first = submission.index if self.noisy else self._first[key_of(submission.sample)]
        return None if first == submission.index else first

    def _advance(self) -> None:
        """Run the next batch, and hand its results to the strategy."""
        batch, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
        fresh = [each for each in batch if each.index not in self.outcomes and self._repeats(each) is None]
        samples = [submission.sample for submission in fresh]
        with closing(self._pool.as_finished(self._attempt, samples, lost=died)) as outcomes:
            for position, outcome in outcomes:
                self._note(fresh[position], outcome)
        for submission in batch:
            self._deliver(submission)

    def _note(self, submission: Submission, outcome: Outcome) -> None:
        self.outcomes[submission.index] = outcome
        self._ledger.note(submission.index, submission.sample, outcome)

    def _deliver(self, submission: Submission) -> None:
        """Report a model's outcome to the strategy."""
        first = self._repeats(submission)
        if submission.index not in self.outcomes and first is not None:
            self._note(submission, replace(self.outcomes[first], seconds=0.0, repeats=first))
        value = self.outcomes[submission.index].value
        if value is not None:
            self.dispatch_model_event(FinalMetricEvent(submission.model, value))
        status = ModelStatus.Failed if value is None else ModelStatus.Trained
        self.dispatch_model_event(TrainingEndEvent(submission.model, status))
