"""Banks of SRe2L's labels: size on disk, loss of accuracy and time of reading for each encoding.

    python benchmarks/sre2l_bank.py [--seeds 3] [--small]

The digits, ten images a class, recovered from noise as `sre2l_cpu.py --case digits` has them, and labelled by their
teacher for 300 epochs (`sre2l-fkd`). Every encoding is of the same views, so that networks differ by the labels alone;
differences are paired over seeds, against fp16, which keeps a teacher's numbers bit for bit. Seconds are those of one
core: to read all records and logits of a bank, and to train the student on them.

Appends to benchmarks/results/sre2l_bank.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sre2l_cpu
import torch
from record import RESULTS, append, facts, now

from dd_core import evaluation, training
from dd_core.evaluation import protocols
from dd_core.evaluation.verdicts import paired
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.training import Loop, Settings
from dd_core.training.bank import Bank

NAME = "sre2l-bank"
ENCODINGS = ("fp16", "uint8", "top-5", "top-3", "top-2", "top-1")
PROTOCOL = "sre2l-fkd"
CPU = torch.device("cpu")


def main() -> None:
    """Every encoding under every seed."""
    options = parse()
    scores: dict[str, list[float]] = {encoding: [] for encoding in ENCODINGS}
    torch.set_num_threads(1)
    with_sets = sre2l_cpu.Bench(options)
    for seed in range(options.seeds):
        ds = with_sets.set_of("recovered from noise", seed)
        recipe = protocols.load(PROTOCOL).recipe(ds.manifest.recipe, source_name="digits")
        for encoding in ENCODINGS:
            bank = evaluation.relabel(
                ds, train=with_sets.train, protocol=PROTOCOL, encoding=encoding, seed=seed, device="cpu"
            )
            reading = seconds_of_reading(bank)
            begun = time.process_time()
            data = training.training_data(ds, recipe)
            streams = Streams(seed)
            model = training.initialised(recipe, data.image_shape, data.outputs, streams=streams)
            lessons = bank.lessons(data, temperature=recipe.temperature)
            Loop(model, lessons, Settings.of(recipe), streams=streams, device=CPU).run()
            trained = time.process_time() - begun
            accuracy = training.accuracy(model.eval(), with_sets.test, ds.input_form(), device=CPU)
            scores[encoding].append(accuracy)
            spec = bank.spec
            views = spec.images * spec.epochs
            size = sum(part.stat().st_size for part in bank.artefact.folder.glob("part-*"))
            tell(
                options,
                {
                    "what": "encoding",
                    "encoding": encoding,
                    "seed": seed,
                    "accuracy": accuracy,
                    "views": views,
                    "bytes_a_view": spec.record_bytes,
                    "bytes": size,
                    "reading_seconds": round(reading, 3),
                    "training_seconds": round(trained, 3),
                },
            )
    for encoding in ENCODINGS[1:]:
        verdict = paired(scores[encoding], scores["fp16"])
        record = {"difference": verdict.difference, "p": verdict.p, "word": verdict.word}
        tell(options, {"what": "comparison", "first": encoding, "second": "fp16", **record})


def seconds_of_reading(bank: Bank) -> float:
    """CPU seconds to read all records and logits once, from files in the system's cache."""
    begun = time.process_time()
    for epoch in range(bank.spec.epochs):
        bank.records(epoch)
        bank.logits(epoch)
    return time.process_time() - begun


def tell(options: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Print a record, and append it to the results."""
    print(json.dumps(record), flush=True)
    given = {"seeds": options.seeds, "small": options.small}
    append(options.results, {**facts(NAME, given, run=options.run, data="digits, of scikit-learn"), **record})


def parse() -> argparse.Namespace:
    """The command line, with what the sets' own benchmark needs of one."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds of sets, views and networks")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    options = parser.parse_args()
    options.case = options.data = "digits"
    options.workers = Workers().count
    options.out = Path("runs/bench-sre2l-cpu/small" if options.small else "runs/bench-sre2l-cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    options.results = (options.out if options.small else RESULTS) / "sre2l_bank.jsonl"
    options.run = now()
    return options


if __name__ == "__main__":
    main()
