"""Blocks of REPRODUCIBILITY: class-incremental learning with distilled replay buffers on split digits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cells import Record, bold, matching, newest, paragraph, percent, records, score, signed, table

from dd_core.evaluation import verdicts

SEEDS = (0, 1, 2)
TABLES = ("retraining", "replay")
AVERAGED = ("k-means", "herding", "average", "real", "real-adaptive")  # real images, chosen or averaged


def run(name: str, seed: int, share: str = "fill") -> Record:
    """The newest run of a scenario."""
    return newest(records("quickstart"), name=name, seed=seed, share=share)


def finals(name: str, table_name: str, row: str) -> list[float]:
    """Accuracy after the last experience, of every seed and class order."""
    return [value for seed in SEEDS for value in run(name, seed)["final"][table_name][row]]


def against(name: str, table_name: str, row: str, ours: str = "dm") -> verdicts.Verdict:
    """The t-test between two rows, paired over the class orders of all seeds, with the difference in points."""
    return verdicts.paired(*([100 * value for value in finals(name, table_name, which)] for which in (ours, row)))


def scores(name: str) -> list[str]:
    """Accuracy after the last experience; `dm` is bold in a table where it is ahead of every real and averaged row."""
    header = ["row"] + [f"{kind}, seed {seed}" for kind in TABLES for seed in SEEDS]
    rows = [[_row_name(row), *_cells(name, row)] for row in run(name, 0)["final"]["replay"]]
    return table([*header, "replay without filling, seed 0"], rows)


def _row_name(row: str) -> str:
    return f"`{row}`"


def _cells(name: str, row: str) -> list[str]:
    wins = {kind: row == "dm" and _wins(name, kind) for kind in TABLES}
    cells = [bold(_last(run(name, seed), kind, row), when=wins[kind]) for kind in TABLES for seed in SEEDS]
    return [*cells, _last(run(name, 0, "stored"), "replay", row)]


def _wins(name: str, kind: str) -> bool:
    rows = [row for row in run(name, 0)["final"][kind] if row in AVERAGED]
    return all(against(name, kind, row).word == "ahead" for row in rows)


def _last(line: Record, kind: str, row: str) -> str:
    """Accuracy on all classes after the last experience."""
    cells = newest(line["tables"][kind], row=row)
    last = max((key for key in cells if key.startswith("after_")), key=lambda key: int(key.removeprefix("after_")))
    return score(cells[last])


def leads(name: str, learned: Sequence[str]) -> list[str]:
    """By how much each row of learned images is ahead of every other, over all class orders of all seeds."""
    header = ["", *(f"{kind}: {ours} minus" for kind in TABLES for ours in learned)]
    others = [row for row in run(name, 0)["final"]["replay"] if row in AVERAGED]
    rows = [[_row_name(row), *(_lead(name, kind, row, ours) for kind in TABLES for ours in learned)] for row in others]
    return table(header, rows)


def _lead(name: str, kind: str, row: str, ours: str) -> str:
    verdict = against(name, kind, row, ours)
    p = "" if verdict.p is None else f", p {'< 0.001' if verdict.p < 0.001 else f'= {verdict.p:.2g}'}"
    return bold(f"{signed(verdict.difference)}", when=verdict.word == "ahead") + f" ({verdict.word}{p})"


def seconds() -> list[str]:
    """The time of a run by the records, which were measured on a busy machine."""
    lines = [run("quickstart", seed) for seed in SEEDS]
    times = ", ".join(f"{line['seconds']:.0f}" for line in lines)
    loads = ", ".join(f"{line['load_average']:.0f}" for line in lines)
    return paragraph(
        f"""The three runs took {times} s, on two cores that computed other things too (load averages {loads})."""
    )


# --- the choice of the quickstart's settings ---------------------------------------------------------------------


def choice() -> list[str]:
    """Every setting of `dm` that was tried, and its lead over as many k-means images in the same class orders."""
    lines = records("quickstart_choice")
    header = ["setting of `dm`", "class orders", *(cell for kind in TABLES for cell in (kind, "minus k-means"))]
    return table(header, [_choice_row(lines, line) for line in lines if line["row"] == "distilled"])


def _choice_row(lines: Sequence[Record], line: Record) -> list[str]:
    images, *settings = line["settings"]
    orders = len(line["replay"]["each"])
    same = [other for other in matching(lines, row="k-means") if other["settings"] == [images]]
    means = next(other for other in same if len(other["replay"]["each"]) == orders)
    words = [images.replace("images_per_class=", "images a class: "), *map(_setting, settings)]
    cells: list[str] = []
    for kind in TABLES:
        cells += [percent(line[kind]["mean"]), signed(100 * (line[kind]["mean"] - means[kind]["mean"]))]
    return [", ".join(words), str(orders), *cells]


def _setting(assignment: str) -> str:
    """`method.recipe.network=convnet-2-w64` as `network convnet-2-w64`."""
    key, _, value = assignment.partition("=")
    return f"`{key.rpartition('.')[2]}` {value}"


BLOCKS = {
    "quickstart": partial(scores, "quickstart"),
    "quickstart-leads": partial(leads, "quickstart", ["dm"]),
    "quickstart-seconds": seconds,
    "quickstart-choice": choice,
    "ipc1": partial(scores, "digits-replay-ipc1"),
    "ipc1-leads": partial(leads, "digits-replay-ipc1", ["dm", "dataset-distillation"]),
}
