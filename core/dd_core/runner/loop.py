"""THE loop: every method runs in it, and it alone deals with time, disk, signals and memory.

Beside `FILE.safetensors` a run keeps a folder `FILE.run/`: `lock`, `metrics.jsonl`, the last two
`checkpoint-*.safetensors`, and at the end `run.json` (seconds, memory and machine, which must not be in the set).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dd_core.datasets import plain
from dd_core.datasets.plain import Images
from dd_core.distilled import DistilledSet, Provenance, Size, as_size
from dd_core.distiller import Compiling, Context, Distiller, MethodConfig
from dd_core.errors import FRESH, DDError, Diverged, Interrupted, OutOfResources, UserError, require_finite
from dd_core.images import Source
from dd_core.methods import as_method
from dd_core.runner.folder import Checkpoint, Identity, RunFolder
from dd_core.runner.limits import TimedReporter
from dd_core.streams import require_seed
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.system.environment import Environment
from dd_core.system.footprint import shortage
from dd_core.system.parallel import Workers
from dd_core.system.progress import Progress
from dd_core.system.reporter import Reporter, Silent
from dd_core.system.signals import Signals
from dd_core.system.threads import computing, require_cores


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; of these options only `device` and `threads` can change the result.

    workers: who makes the parts of artefacts; None: this process. checkpoint_seconds: least time between checkpoints.
    time_limit: seconds after which the run stops, and can be resumed; None: no limit. fresh: replace `out` and its run,
    if they are there. resume_command: what an interrupted run tells the user to do.
    """

    device: str = "auto"
    threads: int | None = None
    workers: Workers | None = None
    checkpoint_seconds: float = 60.0
    time_limit: float | None = None
    fresh: bool = False
    reporter: Reporter = field(default_factory=Silent)
    resume_command: str = "call distill again with the same arguments"


@surroundings.own()
def distill(
    method: str | Mapping[str, Any] | MethodConfig,
    source: Source | Images,
    size: Size | int | np.integer[Any],
    *,
    seed: int = 0,
    out: Path | str | None = None,
    options: RunOptions | None = None,
    pretrain_on: Source | Images | None = None,
    progress: bool = False,
) -> DistilledSet:
    """Distil `source` into a set of `size`, and write it to `out` (`*.safetensors`) if that is given.

    method: its name, a table such as `{"name": "dm", "steps": 500}`, or what `method("dm", steps=500)` returns.
    source: what `load_data` returns, a pair (images, labels) of arrays, or a torch `Dataset`: see `as_source`.
    size: images a class, or a `Size`.

    `pretrain_on` are real images that the method's networks are pre-trained on instead of `source`. `progress` shows
    a bar, or in a log a line every so often, where `options` name no reporter.
    With `out`, an interrupted run is resumed, the set of a finished run is returned, and a run of another config,
    source, size or seed is refused, with the keys that differ. Raises `UserError`, `Diverged`, `OutOfResources` or
    `Interrupted`.
    """
    config, size = as_method(method), as_size(size)
    options, seed = _options(options, progress=progress), require_seed(seed)
    if options.threads is not None:
        require_cores(options.threads)
    device = devices.resolve(options.device)
    source = plain.given(source, what="source")
    if pretrain_on is not None:
        pretrain_on = plain.given(pretrain_on, what="pretrain_on", like=source.classes)
    if pretrain_on is not None and pretrain_on.fingerprint() != source.fingerprint():
        config = config.pretrained_on(pretrain_on)
        if pretrain_on.classes != source.classes:
            options.reporter.message(
                f"warning: the classes of {pretrain_on.name} and {source.name} have other names, and are matched by "
                f"position: '{pretrain_on.classes[0]}' with '{source.classes[0]}', and so on"
            )
    with computing(options.threads or torch.get_num_threads()):
        run = _Run(config, source, size, seed, options, device, pretrain_on)
        if out is None:
            return run.in_memory()
        with RunFolder.locked(Path(out)) as folder:
            return run.in_folder(folder)


def _options(options: Any, *, progress: bool) -> RunOptions:
    if options is not None and not isinstance(options, RunOptions):
        raise UserError(f"options are a {type(options).__name__}; give RunOptions(device='cpu', ...)")
    options = options or RunOptions()
    heard = type(options.reporter) is not Silent
    return options if heard or not progress else replace(options, reporter=Progress())


@dataclass
class _Run:
    config: MethodConfig
    source: Source
    size: Size
    seed: int
    options: RunOptions
    device: torch.device
    pretrain_on: Source | None
    begun: float = field(default_factory=time.monotonic)

    @property
    def identity(self) -> Identity:
        """What must not change between a run and its resumption."""
        return Identity(
            source=self.source.name,
            fingerprint=self.source.fingerprint(),
            method=self.config.name,
            config=self.config.model_dump(mode="json"),
            size=self.size,
            seed=self.seed,
        )

    def in_memory(self) -> DistilledSet:
        context = self._context(self.options.reporter)
        distiller = self._build(context)
        with self.options.reporter.stage(self.config.name, total=self.config.steps) as stage:
            for index in range(self.config.steps):
                stage.advance(guarded(distiller, index, kept="nothing was written"))
        environments = (devices.environment(self.device),)
        return self._with_provenance(distiller, environments, _contents(context))

    def in_folder(self, folder: RunFolder) -> DistilledSet:
        fresh = self.options.fresh
        if not fresh and (finished := folder.finished(self.identity)) is not None:
            self.options.reporter.message(f"{folder.out} is complete already; nothing to do")
            return finished
        checkpoint = Checkpoint() if fresh else folder.latest(self.identity, self.options.reporter.message)
        environments = self._environments(checkpoint)
        context = self._context(TimedReporter(self.options.reporter, self._check_time))
        contents = _contents(context)
        if checkpoint.state is not None and checkpoint.artefacts != contents:
            raise UserError(
                f"{folder.path}: the run began with other artefacts (starting weights, say) than are made here now; "
                f"bring back the cache that it began with, or {FRESH} starts over"
            )
        distiller = self._build(context)
        if fresh:  # only now: a run that cannot begin discards nothing
            folder.discard()
        if checkpoint.state is not None:
            _take_up(distiller, checkpoint.state, folder)
            self.options.reporter.message(f"resumed at step {checkpoint.step} of {self.config.steps}")
        self._loop(distiller, folder, replace(checkpoint, environments=environments, artefacts=contents))
        ds = self._with_provenance(distiller, environments, contents)
        folder.finish(ds, seconds=checkpoint.seconds + self._seconds(), device=self.device)
        return ds

    def _context(self, reporter: Reporter) -> Context:
        """What the method is built from; its artefacts come from the cache, or are made now."""
        self.config.check(self.source, self.size)
        if (line := shortage(self.config.footprint(self.source, self.size, self.device), self.device)) is not None:
            self.options.reporter.message(f"warning: {line}")
        return Context.gather(
            self.config,
            self.source,
            self.size,
            seed=self.seed,
            device=self.device,
            others=() if self.pretrain_on is None else (self.pretrain_on,),
            workers=self.options.workers,
            reporter=reporter,
        )

    def _build(self, context: Context) -> Distiller:
        with memory_guard("while preparing the run"):
            return self.config.build(context)

    def _environments(self, checkpoint: Checkpoint) -> tuple[Environment, ...]:
        """The environments of all parts of the run; a change is allowed, reported and recorded."""
        now = devices.environment(self.device)
        before = checkpoint.environments
        if before and before[-1] != now:
            self.options.reporter.message(
                "resumed under another torch, device or thread count: the last bits may differ from an "
                "uninterrupted run's, and the manifest says so"
            )
        return before if before and before[-1] == now else (*before, now)

    def _loop(self, distiller: Distiller, folder: RunFolder, start: Checkpoint) -> None:
        options, total = self.options, self.config.steps
        folder.metrics_up_to(start.step)
        saved, saved_at = start.step, time.monotonic()
        with options.reporter.stage(self.config.name, first=start.step, total=total) as stage, Signals() as signals:
            for index in range(start.step, total):
                metrics = guarded(
                    distiller,
                    index,
                    kept=f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet",
                )
                folder.log(index, metrics)
                stage.advance(metrics)
                stop = signals.received is not None or self._late()
                if index + 1 == total:
                    break
                if stop or time.monotonic() - saved_at >= options.checkpoint_seconds:
                    seconds = start.seconds + self._seconds()
                    at = replace(start, step=index + 1, state=distiller.state_dict(), seconds=seconds)
                    folder.save(at, self.identity)
                    saved, saved_at = index + 1, time.monotonic()
                if stop:
                    raise self._stopped(f"step {index + 1} of {total}", signals.received)

    def _late(self) -> bool:
        return self.options.time_limit is not None and self._seconds() >= self.options.time_limit

    def _check_time(self, done: str) -> None:
        """Raise `OutOfResources` once the time limit is reached; `done` says what is done ("3 of 10 experts")."""
        if self._late():
            raise self._stopped(done, None)

    def _stopped(self, done: str, signal_number: int | None) -> DDError:
        where = f"stopped after {done}; to go on: {self.options.resume_command}"
        if signal_number is None:
            return OutOfResources(f"the time limit of {self.options.time_limit:g} s is reached; {where}")
        return Interrupted(where, signal_number)

    def _seconds(self) -> float:
        return time.monotonic() - self.begun

    def _with_provenance(
        self, distiller: Distiller, environments: tuple[Environment, ...], contents: tuple[str, ...]
    ) -> DistilledSet:
        """The set, whose manifest says where it came from."""
        ds = distiller.export()
        provenance = Provenance(
            **self.identity.fields(),
            source_images=len(self.source),
            artefacts=contents,
            environments=environments,
            inner_steps=distiller.inner_steps_taken if isinstance(distiller, Compiling) else None,
        )
        return replace(ds, manifest=ds.manifest.model_copy(update={"provenance": provenance}))


def _contents(context: Context) -> tuple[str, ...]:
    """Digests of the artefacts' contents, not of their specs: another torch may make other contents from a spec."""
    return tuple(sorted({artefact.content for artefact in context.artefacts.values()}))


def _take_up(distiller: Distiller, state: Mapping[str, Any], folder: RunFolder) -> None:
    """Load a checkpoint's state; raises `UserError` if it does not fit, as that of another version may not."""
    try:
        with memory_guard("while resuming"):
            distiller.load_state_dict(state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{folder.path}: its checkpoint does not fit the method ({type(error).__name__}); {FRESH} starts over"
        ) from error


def guarded(distiller: Distiller, index: int, *, kept: str) -> Mapping[str, float]:
    """Do one step and return its metrics, all finite; an error says what to do, and what is `kept` of the run."""
    try:
        with memory_guard(f"in step {index}; {kept}"):
            metrics = distiller.step(index)
        require_finite(**metrics)
    except Diverged as error:
        raise Diverged(f"step {index}: {error.text}; {kept}; a smaller learning rate is the usual remedy") from None
    return metrics


@contextmanager
def memory_guard(when: str) -> Iterator[None]:
    """Raise `OutOfResources`, with `when` in its line, where a block runs out of memory."""
    try:
        yield
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise OutOfResources(f"out of memory {when}; use fewer images at once, or a narrower network") from error
        raise
