"""An engine that keeps its workers busy: a strategy hears each result as soon as there is one.

The history then depends on which trial ends first. A journal keeps that order, so that a search that was interrupted
goes on from where it was.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dd_apps.nas.engine import PoolExecutionEngine, Submission
from dd_apps.nas.trials import Outcome, TrialFunction, died
from dd_core.system.parallel import Pool


class StreamingEngine(PoolExecutionEngine):
    """A `PoolExecutionEngine` with at most `batch` models under way, whose results come as they end."""

    def __init__(self, pool: Pool, trial: TrialFunction, **options: Any) -> None:
        """Takes the options of a `PoolExecutionEngine`."""
        super().__init__(pool, trial, **options)
        self._threads = ThreadPoolExecutor(pool.workers.count, thread_name_prefix="trial")
        self._running: dict[Future[Outcome], Submission] = {}
        self._lost: list[Submission] = []  # their workers died while others ran
        self._order = iter(self._ledger.order)

    def shutdown(self) -> None:
        """Wait for the trials that run, of an interrupted search too, and record them; start no other."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for future, submission in self._running.items():
            if not future.cancelled() and future.exception() is None and future.result() != died(submission.sample):
                self._note(submission, future.result())

    def _accept(self, submission: Submission) -> None:
        super()._accept(submission)
        # one worker is this process, whose main thread waits for results anyway
        if self._is_new(submission) and self._pool.workers.count > 1:
            self._running[self._threads.submit(self._run, submission)] = submission

    def _is_new(self, submission: Submission) -> bool:
        return submission.index not in self.outcomes and self._repeats(submission) is None

    def _run(self, submission: Submission) -> Outcome:
        (outcome,) = self._pool.run(self._attempt, [submission.sample], lost=died)
        return outcome

    def _advance(self) -> None:
        """Hand the next result to the strategy."""
        submission = self._remembered() or self._known() or self._next()
        self._waiting.remove(submission)
        self._deliver(submission)

    def _remembered(self) -> Submission | None:
        """The model whose result came next in an earlier call."""
        waiting = {submission.index: submission for submission in self._waiting}
        for index in self._order:
            if index in waiting:
                return waiting[index]
        return None

    def _known(self) -> Submission | None:
        """A model that has an outcome, or whose sample has one."""
        for submission in self._waiting:
            if submission.index in self.outcomes or self._repeats(submission) in self.outcomes:
                return submission
        return None

    def _next(self) -> Submission:
        """A model whose trial has ended; waits for one."""
        while self._running:
            ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
            future = min(ended, key=lambda future: self._running[future].index)
            submission, outcome = self._running.pop(future), future.result()
            if outcome != died(submission.sample):
                self._note(submission, outcome)
                return submission
            # whose job killed the worker is known when a job runs while no other does
            self._lost.append(submission)
        alone = self._lost or [submission for submission in self._waiting if self._is_new(submission)]
        submission = alone.pop(0)
        self._note(submission, self._run(submission))
        return submission
