"""Blocks of REPRODUCIBILITY: methods beside real images of as many bytes, and which differences are more than noise."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

from cells import Record, bold, bullets, newest, records, score, table, words

from dd_apps.report.tables import human_bytes

RANDOM = "random"
TITLE = "accuracy on "


def of(name: str) -> Record:
    """The newest run of a scenario."""
    return newest(records("compare"), name=name)


def networks(line: Record) -> list[str]:
    """The networks, in the order of the report."""
    titles = [each["title"] for each in line["tables"]]
    return [title.removeprefix(TITLE) for title in titles if title.startswith(TITLE)]


def rows_of(line: Record, title: str) -> list[Record]:
    """The rows of a table of the report."""
    return next(each["rows"] for each in line["tables"] if each["title"] == title)


def accuracies(name: str) -> list[str]:
    """A line for each ipc and row of the report; bold where a set is ahead of random images at equal bytes."""
    line = of(name)
    columns = networks(line)
    tables = {network: rows_of(line, TITLE + network) for network in columns}
    shown: list[list[str]] = []
    for place, row in enumerate(tables[columns[0]]):
        cells = [_cell(line, network, tables[network][place]) for network in columns]
        shown.append([str(row["a class"]), row["row"], str(row["images"]), human_bytes(row["bytes"]), *cells])
    return table(["a class", "row", "images", "bytes", *(f"`{network}`" for network in columns)], shown)


def _cell(line: Record, network: str, row: Mapping[str, Any]) -> str:
    verdict = against_random(line, network, row["a class"], row["row"])
    return bold(score(row["accuracy"]), when=verdict == "ahead")


def against_random(line: Record, network: str, ipc: int, row: str) -> str | None:
    """The corrected verdict on a distilled row beside random images of as many bytes; None for another row."""
    for each in rows_of(line, "differences"):
        here = each["network"] == network and each["a class"] == ipc and each["row"] == row
        if here and _short(each["against"]) == RANDOM:
            return each["verdict"]
    return None


def notes(name: str) -> list[str]:
    """Sentences on significant differences, on which row is ahead of which, and on costs."""
    line = of(name)
    every = rows_of(line, "differences")
    costs = [each for each in rows_of(line, "costs") if not each["beside"]]
    distilled = list(dict.fromkeys(each["row"] for each in costs))
    apart = [each for each in every if each["verdict"] in ("ahead", "behind")]
    texts = [f"{len(apart)} of {len(every)} differences are more than noise after Holm's correction for all of them."]
    for network in networks(line):
        for ipc in dict.fromkeys(each["a class"] for each in every):
            here = [each for each in every if each["network"] == network and each["a class"] == ipc]
            texts.append(f"`{network}`, {ipc} a class: {_standings(here, distilled)}")
    making = [f"{row} {_seconds([each for each in costs if each['row'] == row])}" for row in distilled]
    load = f"load average {line['load_average']} on {line['hardware']['cores']} cores"
    whole = f"{line['seconds'] / 60:.0f} minutes in all, beside other work ({load})"
    return bullets(*texts, f"Making a set took {'; '.join(making)}. {whole[0].upper()}{whole[1:]}.")


def _seconds(costs: list[Record]) -> str:
    """The seconds of making a set at each ipc, and of training its experts."""
    sizes = words([f"{each['making a set']:.2g} s at {each['a class']} a class" for each in costs])
    experts = max(each["artefacts"] or 0 for each in costs)
    return f"{sizes}, after {experts:.0f} s for its experts" if experts else sizes


def _standings(rows: list[Record], distilled: Container[str]) -> str:
    """What each distilled row is ahead of and behind, and how many pairs of real images are told apart."""
    ahead: dict[str, list[str]] = {}
    real = 0
    for each in rows:
        if each["verdict"] not in ("ahead", "behind"):
            continue
        if each["row"] not in distilled:
            real += 1
            continue
        pair = (each["row"], _short(each["against"]))
        winner, loser = pair if each["verdict"] == "ahead" else pair[::-1]
        ahead.setdefault(winner, []).append(loser)
    among = f"; pairs of real images told apart: {real}" if real else ""
    told = "; ".join(f"{winner} is ahead of {words(losers)}" for winner, losers in ahead.items())
    lost = [each for each in rows if _short(each["against"]) == RANDOM and each["verdict"] == "behind"]
    wins = [each["row"] for each in lost if each["row"] in distilled]
    random = f" Random real images win against {words(wins)}." if wins else ""
    return f"{told or 'no test tells a distilled set from anything'}{among}.{random}"


def _short(name: str) -> str:
    """The name of a row of real images, without the methods that it is compared with."""
    name = name.partition(" (")[0]
    return "its twin" if name.startswith("random-real twin") else name


BLOCKS: Mapping[str, Callable[[], list[str]]] = {
    "compare-digits": partial(accuracies, "digits"),
    "compare-digits-notes": partial(notes, "digits"),
    "compare-mnist": partial(accuracies, "mnist"),
    "compare-mnist-notes": partial(notes, "mnist"),
}
