"""An engine that keeps its workers busy: a strategy gets each result as soon as it is known.

The history then depends on which trial ends first. A journal keeps that order, so that an interrupted search resumes.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dd_apps.nas.engine import PoolExecutionEngine, Submission
from dd_apps.nas.trials import Outcome, TrialFunction, died
from dd_core.system.parallel import Pool


class StreamingEngine(PoolExecutionEngine):
    """A `PoolExecutionEngine` with at most `batch` models under way; each result is delivered when its trial ends."""

    def __init__(self, pool: Pool, trial: TrialFunction, **options: Any) -> None:
        """Takes the options of a `PoolExecutionEngine`."""
        super().__init__(pool, trial, **options)
        self._threads = ThreadPoolExecutor(pool.workers.count, thread_name_prefix="trial")
        self._running: dict[Future[Outcome], Submission] = {}
        self._lost: list[Submission] = []  # models whose workers died while other trials ran
        self._order = iter(self._ledger.order)

    def shutdown(self) -> None:
        """Wait for the trials that run, also when the search is interrupted, and record them; start no more."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for future, submission in self._running.items():
            if not future.cancelled() and future.exception() is None and future.result() != died(submission.sample):
                self._note(submission, future.result())

    def _accept(self, submission: Submission) -> None:
        super()._accept(submission)
        # with one worker, trials run in this process, when its main thread waits for a result
        if self._is_new(submission) and self._pool.workers.count > 1:
            self._running[self._threads.submit(self._run, submission)] = submission

    def _is_new(self, submission: Submission) -> bool:
        return submission.index not in self.outcomes and self._repeats(submission) is None

    def _run(self, submission: Submission) -> Outcome:
        (outcome,) = self._pool.run(self._attempt, [submission.sample], lost=died)
        return outcome

    def _advance(self) -> None:
        """Deliver the next result to the strategy."""
        submission = self._remembered() or self._known() or self._next()
        self._waiting.remove(submission)
        self._deliver(submission)

    def _remembered(self) -> Submission | None:
        """The waiting model whose result came next in an earlier call; None if there is none."""
        waiting = {submission.index: submission for submission in self._waiting}
        for index in self._order:
            if index in waiting:
                return waiting[index]
        return None

    def _known(self) -> Submission | None:
        """A waiting model that has an outcome, or whose sample has one; None if there is none."""
        for submission in self._waiting:
            if submission.index in self.outcomes or self._repeats(submission) in self.outcomes:
                return submission
        return None

    def _next(self) -> Submission:
        """The next model whose trial ends; waits for it."""
        while self._running:
            ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
            future = min(ended, key=lambda future: self._running[future].index)
            submission, outcome = self._running.pop(future), future.result()
            if outcome != died(submission.sample):
                self._note(submission, outcome)
                return submission
            # which job killed the worker shows when the job runs alone
            self._lost.append(submission)
        alone = self._lost or [submission for submission in self._waiting if self._is_new(submission)]
        submission = alone.pop(0)
        self._note(submission, self._run(submission))
        return submission
