"""One row of the tables under one class order: make the memory, learn with it both ways, measure."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from dd_apps.continual import benchmark
from dd_apps.continual.adapter import contained, contents
from dd_apps.continual.benchmark import Stream
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.config import TABLES, ContinualScenario, Table
from dd_apps.continual.job import Job, Outcome
from dd_apps.continual.strategies import Memory, Where, memory_for, strategy_for
from dd_core import networks
from dd_core.distilled import DistilledSet, Manifest, Pixels, Provenance, Size
from dd_core.images import Source, normalise, require_labels
from dd_core.recipe import Recipe
from dd_core.streams import counter
from dd_core.system import device as devices
from dd_core.system.footprint import prediction_batch


def run_job(job: Job) -> Outcome:
    """Every random number in it comes from the scenario's seed, the class order and the table."""
    scenario = job.scenario
    train, test = (scenario.real_images.load(split) for split in ("train", "test"))
    seed = counter(scenario.seed, "order", job.order)
    with tempfile.TemporaryDirectory() as scratch, contained(seed, "benchmark"):
        stream = benchmark.build(train, test, experiences=scenario.experiences, seed=scenario.seed, order=job.order)
        folder = Path(scratch) if job.folder is None else job.folder / f"order-{job.order}" / job.row
        where = Where(train.name, classes=len(train.classes), seed=seed, folder=folder, device=job.device)
        return _Learner(job, scenario, stream, train, test, where).outcome()


def rightly_labelled(network: nn.Module, test: Source, stream: Stream, *, device: torch.device) -> np.ndarray:
    """(N,) whether `network`, choosing among all classes of the data, labels each test image rightly."""
    network.eval()

    def logits(images: Tensor) -> Tensor:
        return network(normalise(images, stream.mean, stream.std))

    with torch.no_grad():
        size = prediction_batch(logits, test.image_shape, device)
        guesses = [logits(batch.to(device)).argmax(1).cpu() for batch in test.batches(size)]
    network.train()
    return (torch.cat(guesses) == require_labels(test)).numpy()


@dataclass(frozen=True)
class _Learner:
    job: Job
    scenario: ContinualScenario
    stream: Stream
    train: Source
    test: Source
    where: Where

    def outcome(self) -> Outcome:
        making = self._make_memory()
        matrices: dict[Table, list[list[float | None]]] = {}
        seconds: dict[Table, float] = {}
        memory: Memory | None = None
        for table in TABLES:
            begun = time.monotonic()
            memory = memory_for(self.scenario, self.job.row, table, self.where)
            matrices[table] = self._learn(table, memory)
            seconds[table] = making + time.monotonic() - begun
        kept = None if memory is None else self._held(memory)
        counts = tuple(int(members.sum()) for members in self._members())
        return Outcome(matrices, counts, seconds, self._nbytes(kept), kept)

    def _make_memory(self) -> float:
        """Distil every experience once, into the folder where both tables find it; returns the seconds."""
        memory = memory_for(self.scenario, self.job.row, "retraining", self.where)
        if not isinstance(memory, DistilledBuffer):
            return 0.0
        for experience in self.stream.experiences:
            memory.post_adapt(None, experience)
        return memory.seconds

    def _learn(self, table: Table, memory: Memory | None) -> list[list[float | None]]:
        """Train on each experience in turn; the accuracy matrix."""
        device = devices.resolve(self.where.device)
        network = networks.for_source(self.scenario.network, self.test, seed=self.where.seed).to(device)
        strategy = strategy_for(self.scenario, self.job.row, table, network=network, memory=memory, device=device)
        matrix: list[list[float | None]] = []
        with contained(self.where.seed, table):
            for experience in self.stream.experiences:
                strategy.train(experience)
                right = rightly_labelled(strategy.model, self.test, self.stream, device=device)
                seen = self._members()[: len(matrix) + 1]
                unseen = [None] * (len(self.stream.classes) - len(seen))
                matrix.append([float(right[members].mean()) for members in seen] + unseen)
        return matrix

    def _members(self) -> list[np.ndarray]:
        """For each experience, (N,) which test images belong to it."""
        labels = require_labels(self.test).numpy()
        return [np.isin(labels, classes) for classes in self.stream.classes]

    def _held(self, memory: Memory) -> DistilledSet:
        """What a memory holds in the end, as a set that can be drawn and counted."""
        images, labels = contents(memory)
        manifest = Manifest(
            classes=self.test.classes,
            pixels=Pixels(space="raw", mean=self.stream.mean, std=self.stream.std),
            recipe=_recipe(self.scenario),
            provenance=self._provenance(memory, labels) if isinstance(memory, DistilledBuffer) else None,
        )
        return DistilledSet(images, labels, manifest)

    def _provenance(self, memory: DistilledBuffer, labels: np.ndarray) -> Provenance:
        """Where a memory of images with these labels came from: a distillation of each experience by one method."""
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

    def _nbytes(self, kept: DistilledSet | None) -> int:
        if kept is not None:
            return kept.nbytes
        return len(self.train) * int(np.prod(self.train.image_shape)) if self.job.row == "joint" else 0


def _recipe(scenario: ContinualScenario) -> Recipe:
    """How a memory is trained on in the table "retraining"."""
    retraining = scenario.retraining
    return Recipe(
        network=scenario.network,
        learning_rate=retraining.learning_rate,
        momentum=retraining.momentum,
        weight_decay=retraining.weight_decay,
        schedule="constant",
        epochs=retraining.epochs,
        batch_size=retraining.batch_size,
    )
