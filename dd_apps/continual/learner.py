"""One row of the tables under one class order: make the memory, train with it in each table, measure."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from dd_apps.continual import benchmark
from dd_apps.continual.adapter import contained, contents
from dd_apps.continual.benchmark import Stream
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.config import ContinualScenario, Retraining
from dd_apps.continual.guard import Guard, GuardedImages
from dd_apps.continual.job import Job, Ledger, Outcome, Trial
from dd_apps.continual.keeping import Finished, finished
from dd_apps.continual.memory.holding import ids_of
from dd_apps.continual.orders import stream_of
from dd_apps.continual.resuming import RESUMED, Progress, load_memory, load_strategy, memory_state, strategy_state
from dd_apps.continual.rows import Table
from dd_apps.continual.strategies import Memory, Where, memory_for, strategy_for
from dd_apps.continual.strategies.stores import Stopwatch, own_memory, state_bytes
from dd_apps.continual.strategies.watching import loggers
from dd_apps.continual.taught import Taught
from dd_core import networks
from dd_core.distilled import DistilledSet, Manifest, Pixels, Provenance, Size
from dd_core.errors import Diverged
from dd_core.images import Source, normalise, require_labels
from dd_core.recipe import Recipe
from dd_core.streams import counter
from dd_core.system import device as devices
from dd_core.system.footprint import most_forward, prediction_batch
from dd_core.system.surroundings.generators import generators_kept

NOWHERE = Finished(None)


def make_memory(job: Job) -> None:
    """Distil the memory of a job's row into the folder where the row, and others of its method, find it."""
    train, test = _loaded(job.scenario)
    with _ready(job, train, test) as learner:
        learner.make_memory()


def run_job(job: Job) -> Outcome:
    """Run a job. Its random numbers come from the scenario's seed, the class order, the table and the network's number.

    With a folder, the outcome is kept there, and the next run of the same job reads it.
    """
    train, test = _loaded(job.scenario)
    kept = finished(job, train, test)
    if (outcome := kept.read()) is not None:
        return outcome
    with _ready(job, train, test, kept) as learner:
        try:
            outcome = learner.outcome()
        except Diverged as error:
            raise Diverged(f"row '{job.row}', class order {job.order + 1}: {error.text}") from None
    kept.write(outcome)
    for table in outcome.trials:
        for number in range(job.scenario.networks):
            Progress(kept.progress(table, number)).remove()
    return outcome


def _loaded(scenario: ContinualScenario) -> tuple[Source, Source]:
    """The training images of the stream, and all test images."""
    train, test = (scenario.real_images.load(split) for split in ("train", "test"))
    return stream_of(train, scenario.images, seed=scenario.seed), test


@contextmanager
def _ready(job: Job, train: Source, test: Source, kept: Finished = NOWHERE) -> Iterator[_Learner]:
    """The learner of a job; within the block the generators that Avalanche draws from are seeded."""
    scenario, guard = job.scenario, Guard(len(train))
    seed = counter(scenario.seed, "order", job.order)
    with tempfile.TemporaryDirectory() as scratch, contained(seed, "benchmark"):
        stream = benchmark.build(
            train,
            test,
            experiences=scenario.experiences,
            seed=scenario.seed,
            order=job.order,
            rule=scenario.class_orders,
            guard=guard,
        )
        where = Where(
            train.name,
            classes=len(train.classes),
            seed=seed,
            folder=job.sets_folder or Path(scratch),
            device=job.device,
            image_shape=tuple(train.image_shape),
        )
        yield _Learner(job, scenario, stream, train, test, where, guard, kept)


def rightly_labelled(network: nn.Module, test: Source, stream: Stream, *, device: torch.device) -> np.ndarray:
    """(N,) whether `network`, choosing among all classes of the data, labels each test image rightly."""
    return (_logits(network, test, stream, device=device).argmax(1) == require_labels(test)).numpy()


def rightly_labelled_within(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> np.ndarray:
    """(N,) whether the class with the largest logit among `classes` is the image's label.

    logits: (N, K) of all K classes; labels: (N,).
    """
    chosen = torch.tensor(classes)
    return (chosen[logits[:, chosen].argmax(1)] == labels).numpy()


def _logits(network: nn.Module, test: Source, stream: Stream, *, device: torch.device) -> Tensor:
    """(N, K) the network's outputs for the test images, in evaluation mode; raises `Diverged` if one is not finite."""
    network.eval()

    def logits(images: Tensor) -> Tensor:
        return network(normalise(images, stream.mean, stream.std))

    with torch.no_grad():
        size = prediction_batch(logits, test.image_shape, device, most=most_forward(device))
        outputs = [logits(batch.to(device)).cpu() for batch in test.batches(size)]
    network.train()
    if not (whole := torch.cat(outputs)).isfinite().all():
        raise Diverged(
            "the network's outputs are not finite, because its training diverged; take a smaller learning_rate"
        )
    return whole


@dataclass(frozen=True)
class _Learner:
    job: Job
    scenario: ContinualScenario
    stream: Stream
    train: Source
    test: Source
    where: Where
    guard: Guard
    kept: Finished

    def outcome(self) -> Outcome:
        if self.scenario.tables_of(self.job.row) == ("taught",):
            of_table, images = self._taught()
            return Outcome({"taught": of_table}, self._counts(), images)
        distilling = self.make_memory()
        trials: dict[Table, tuple[Trial, ...]] = {}
        memory: Memory | None = None
        for table in self.scenario.tables_of(self.job.row):
            learned: list[Trial] = []
            for number in range(self.scenario.networks):
                memory = memory_for(self.scenario, self.job.row, table, self.where)
                learned.append(self._learn(table, number, memory, distilling))
            trials[table] = tuple(learned)
        return Outcome(trials, self._counts(), None if memory is None else self._held(memory))

    def _counts(self) -> tuple[int, ...]:
        """Test images of each experience."""
        return tuple(int(members.sum()) for members in self._members(self.test))

    def _taught(self) -> tuple[tuple[Trial, ...], DistilledSet]:
        """The table 'taught': fresh networks after each experience learn distilled images whose views teachers label.

        Returns the trials, and the distilled images.
        """
        taught, device = self._taught_row(), devices.resolve(self.where.device)
        parts, distilling = taught.parts()
        images, labels = (torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("images", "labels"))
        teachers = {id(part.teacher): part.teacher for part in parts}.values()
        weights = [weight for teacher in teachers for weight in teacher.state_dict().values()]
        trials: list[Trial] = []
        for number in range(self.scenario.networks):
            seed = self.where.seed if number == 0 else counter(self.where.seed, "network", number)
            rows, begun = [], time.monotonic()
            for position in range(len(parts)):
                network = taught.student(parts[: position + 1], seed=seed, step=position, device=device)
                rows.append(self._row(network, position, device))
            ledger = Ledger(
                distilling=distilling,
                training=time.monotonic() - begun,
                images=len(labels),
                pixels=images.nbytes,
                state=sum(weight.numel() * weight.element_size() for weight in weights),
            )
            trials.append(Trial([row[0] for row in rows], [row[1] for row in rows], ledger))
        return tuple(trials), DistilledSet(images, labels, self._manifest(taught.recipe))

    def _taught_row(self) -> Taught:
        return Taught(
            scenario=self.scenario,
            row=self.job.row,
            stream=self.stream,
            train=GuardedImages(self.train, self.guard),
            test=self.test,
            seed=self.where.seed,
            folder=self.where.folder,
            device=self.where.device,
            within=self._allowed,
        )

    def make_memory(self) -> float:
        """Distil every experience once, into the folder where both tables find it; returns the seconds."""
        if self.scenario.tables_of(self.job.row) == ("taught",):
            return self._taught_row().parts()[1]
        memory = memory_for(self.scenario, self.job.row, self.scenario.tables_of(self.job.row)[0], self.where)
        if not isinstance(memory, DistilledBuffer) or memory.asks_network:
            return 0.0  # a memory that needs the network for labels or features is made during training
        for number, experience in enumerate(self.stream.experiences):
            with self._within(number, "by the distiller"):
                memory.post_adapt(None, experience)
        return memory.seconds

    def _learn(self, table: Table, number: int, memory: Memory | None, distilling: float) -> Trial:
        """Train one network on each experience in turn."""
        device = devices.resolve(self.where.device)
        seed = self.where.seed if number == 0 else counter(self.where.seed, "network", number)
        network = networks.for_source(self.scenario.network, self.test, seed=seed).to(device)
        everything, known, seconds = [], [], [0.0, 0.0]  # of training, and of storing within it
        folder = (self.job.own_folder or self.where.folder) / "logs" / f"{table}-{number}"
        with contained(seed, table), loggers(self.scenario.loggers, folder) as watching:
            strategy = strategy_for(
                self.scenario,
                self.job.row,
                table,
                network=network,
                memory=memory,
                device=device,
                seed=seed,
                where=self.where,
                loggers=watching,
            )
            # labels and features by the network in training are not on disk
            asks = isinstance(memory, DistilledBuffer) and memory.asks_network
            resumed = self.scenario.row_of(self.job.row).strategy_in(table).name in RESUMED and not (watching or asks)
            progress = Progress(self.kept.progress(table, number) if resumed else None)
            if (state := progress.read()) is not None:
                everything, known, seconds = state["matrix"], state["known"], state["seconds"]
                self._resume(strategy, memory, state, done=len(everything))
            earlier, storing = seconds[1], Stopwatch(strategy, memory)
            for position, experience in [*enumerate(self.stream.experiences)][len(everything) :]:
                stored = self._stored(strategy, memory)
                begun = time.monotonic()
                with self._within(position, "in training", stored):
                    strategy.train(experience)
                seconds = [seconds[0] + time.monotonic() - begun, earlier + storing.seconds]
                for matrix, row in zip((everything, known), self._row(strategy.model, position, device), strict=True):
                    matrix.append(row)
                if watching:
                    with generators_kept():  # Avalanche's evaluation must not change later random draws
                        strategy.eval(self.stream.benchmark.test_stream)
                if progress.path is not None:
                    kept = {"strategy": strategy_state(strategy), "memory": memory_state(memory, self.guard)}
                    progress.write({"matrix": everything, "known": known, "seconds": seconds, **kept})
        asked = memory.seconds if isinstance(memory, DistilledBuffer) and memory.asks_network else 0.0
        ledger = Ledger(
            distilling=distilling or asked,
            storing=max(0.0, seconds[1] - asked),  # negative where sets of an earlier network were only read
            training=seconds[0] - seconds[1],
            state=state_bytes(strategy),
            **self._bytes(strategy, memory),
        )
        return Trial(everything, known, ledger)

    def _resume(self, strategy: Any, memory: Memory | None, state: Mapping[str, Any], *, done: int) -> None:
        """Go on after `done` experiences as if this process had learned them."""
        past = self.stream.experiences[:done]
        if isinstance(memory, DistilledBuffer):
            for position, experience in enumerate(past):
                with self._within(position, "by the distiller"):
                    memory.post_adapt(None, experience)
        elif memory is not None:
            load_memory(memory, state["memory"], past, require_labels(self.train).numpy())
        load_strategy(strategy, state["strategy"], past)  # the generators last

    def _row(self, network: nn.Module, position: int, device: torch.device) -> tuple[list[float | None], ...]:
        """A row of the accuracy matrix, and of the matrix for known tasks, after experience `position`."""
        logits, labels = _logits(network, self.test, self.stream, device=device), require_labels(self.test)
        right = (logits.argmax(1) == labels).numpy()
        members = self._members(self.test)[: position + 1]
        unseen: list[float | None] = [None] * (len(self.stream.classes) - len(members))
        known = [
            float(rightly_labelled_within(logits[of], labels[of], classes).mean())
            for of, classes in zip(map(torch.from_numpy, members), self.stream.classes, strict=False)
        ]
        return [float(right[of].mean()) for of in members] + unseen, known + unseen

    # --- what may be read -------------------------------------------------------------------------------------------

    def _within(self, position: int, what: str, stored: Sequence[int] | set[int] = ()) -> AbstractContextManager[None]:
        """Allow reads of an experience's images and of the rows `stored`; for joint training, of all so far."""
        joint = self.scenario.row_of(self.job.row).memory == "joint"
        members = self._members(self.train)
        parts = members[: position + 1] if joint else members[position : position + 1]
        rows = np.flatnonzero(np.logical_or.reduce(parts)).tolist()
        return self.guard.only([*rows, *stored], what=f"{what} (experience {position + 1})")

    def _allowed(self, position: int | None, what: str) -> AbstractContextManager[None]:
        """Allow reads of an experience's images; for position None, of the images of all experiences (joint)."""
        if position is None:
            return self.guard.only(range(len(self.train)), what=f"{what} (joint)")
        return self._within(position, what)

    def _stored(self, strategy: Any, memory: Memory | None) -> set[int]:
        """Rows of the training images that the memory holds."""
        policy = getattr(strategy, "storage_policy", None) if memory is None else memory
        if policy is None or isinstance(policy, DistilledBuffer):
            return set()
        with self.guard.recording() as rows:
            for group in policy.buffer_groups.values():
                for position in range(len(group.buffer)):
                    group.buffer[position]
        return set(rows)

    def _members(self, source: Source) -> list[np.ndarray]:
        """For each experience, (N,) which images of a source belong to it."""
        labels = require_labels(source).numpy()
        return [np.isin(labels, classes) for classes in self.stream.classes]

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _bytes(self, strategy: Any, memory: Memory | None) -> dict[str, int]:
        """Images of the memory, and bytes of their pixels and logits."""
        image = prod(self.train.image_shape)
        if isinstance(memory, DistilledBuffer):
            pixels = sum(ds.images.nbytes for ds in memory.sets)
            count = sum(map(len, memory.sets))
            return {"images": count, "pixels": pixels, "labels": memory.nbytes - pixels}
        if memory is not None:
            count = len(self._contents(memory)[1])
            return {"images": count, "pixels": count * image}
        if (own := own_memory(strategy, classes=self.where.classes)) is not None:
            return {"images": own.images, "pixels": own.images * image, "labels": own.logits}
        count = len(self.train) if self.scenario.row_of(self.job.row).memory == "joint" else 0
        return {"images": count, "pixels": count * image}

    def _contents(self, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
        with self.guard.recording():
            return contents(memory)  # pyright: ignore[reportArgumentType] (a reservoir has groups too)

    def _held(self, memory: Memory) -> DistilledSet:
        """The memory's images after the last experience, as a set that can be drawn and counted."""
        images, labels = self._contents(memory)
        sets = memory.sets if isinstance(memory, DistilledBuffer) else ()
        formations = {ds.manifest.formation for ds in sets}
        formation = formations.pop() if len(formations) == 1 else 1
        if formation != 1:  # stored images, not those that networks see
            images = np.concatenate([ds.images for ds in sets])
            labels = np.concatenate([ids_of(ds)[ds.labels] for ds in sets])
        provenance = self._provenance(memory, labels) if isinstance(memory, DistilledBuffer) else None
        manifest = self._manifest(_recipe(self.scenario, self.job.row), provenance)
        return DistilledSet(images, labels, manifest.model_copy(update={"formation": formation}))

    def _manifest(self, recipe: Recipe, provenance: Provenance | None = None) -> Manifest:
        """The manifest of a memory's uint8 images."""
        pixels = Pixels(space="raw", mean=self.stream.mean, std=self.stream.std)
        return Manifest(classes=self.test.classes, pixels=pixels, recipe=recipe, provenance=provenance)

    def _provenance(self, memory: DistilledBuffer, labels: np.ndarray) -> Provenance:
        """The provenance of a memory with these labels: each experience distilled by one method."""
        provenances = memory.provenances
        experiences: list[JsonValue] = [list(classes) for classes in self.stream.classes]
        return Provenance(
            source=self.train.name,
            fingerprint=self.train.fingerprint(),
            source_images=len(self.train),
            method=provenances[0].method,
            config={**provenances[0].config, "experiences": experiences, "order": self.job.order},
            size=Size.of(np.bincount(labels, minlength=len(self.test.classes)).tolist()),
            seed=self.scenario.seed,
            artefacts=tuple(sorted({digest for provenance in provenances for digest in provenance.artefacts})),
            environments=tuple(dict.fromkeys(part for provenance in provenances for part in provenance.environments)),
        )


def _recipe(scenario: ContinualScenario, row: str) -> Recipe:
    """The recipe by which the table "retraining" trains on a memory."""
    tables = scenario.row_of(row).tables
    settings = scenario.settings(row, "retraining") if "retraining" in tables else scenario.retraining
    retraining = settings if isinstance(settings, Retraining) else scenario.retraining
    return Recipe(
        network=scenario.network,
        learning_rate=retraining.learning_rate,
        momentum=retraining.momentum,
        weight_decay=retraining.weight_decay,
        schedule=retraining.schedule,
        epochs=retraining.epochs,
        batch_size=retraining.batch_size,
        augmentation=retraining.augmentation,
    )
