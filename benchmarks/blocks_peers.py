"""Blocks of `make bench-peers` (the engine beside plain references) and of `make bench-growth` (what grows)."""

from __future__ import annotations

from collections.abc import Iterable

from cells import Record, bold, bullets, records, table
from peer_cases import PEERS
from record import RESULTS

MOST = 1.1  # of a ratio, for a curve that is linear, or flat, to a tenth
_WORDS = {"excess_mib": "MiB", "above_images_mib": "MiB"}


def measured() -> list[Record]:
    """The newest record of each case and part, in the order of the cases."""
    order = {name: place for place, name in enumerate(PEERS)}
    newest = {(line["case"], line["part"]): line for line in records("peers")}
    return sorted(newest.values(), key=lambda line: order.get(line["case"], len(order)))


def peers() -> list[str]:
    """A row for each part of a case. Bold: what was asked of the case is not met."""
    lines = measured()
    rows = [
        [
            f"`{line['case']}`" if line["part"] != "accuracy" else f"`{line['case']}`, scoring",
            line["what"],
            *(_seconds(line[side]["cpu_seconds"]["median"]) for side in ("ours", "plain")),
            bold(f"{line['plain_over_ours']['cpu']:.2f}", when=_lost(line, "cpu")),
            *(f"{line[side]['excess_mib']:.0f}" for side in ("ours", "plain")),
            bold(f"{line['plain_over_ours']['memory']:.2f}", when=_lost(line, "memory")),
            ", ".join(f"{kind} {least:g}" for kind, least in line["asked"].items()) or "-",
        ]
        for line in lines
    ]
    header = ["case", "what", "ours", "plain", "plain / ours", "ours (MiB)", "plain (MiB)", "plain / ours", "asked"]
    last = lines[-1]
    told = (
        f"Median seconds of the process on the CPU, one thread, {last['hardware']['cpu']}, torch "
        f"{last['versions']['torch']}; memory is the peak above what the process has loaded. Bold: less than was asked "
        "of the case. `make bench-peers`"
    )
    return [*table(header, rows), "", *bullets(told)]


def profiles() -> list[str]:
    """A row for each side of a case that falls short: the share of each kind of operation."""
    lines = {line["case"]: line for line in records("peers_profile")}
    short = {line["case"] for line in measured() if not line.get("met", True)}
    kinds = list(dict.fromkeys(kind for line in lines.values() for kind in line["ours"]["shares"] if kind != "other"))
    rows = [
        [f"`{name}`, {side}", *(_share(line[side]["shares"].get(kind, 0.0)) for kind in (*kinds, "other"))]
        for name, line in lines.items()
        if name in short
        for side in ("ours", "plain")
    ]
    return [*table(["case", *kinds, "other"], rows), "", *bullets(*_swept(lines))]


def _swept(lines: dict[str, Record]) -> list[str]:
    swept = {name: line["ours"]["sweeps"] for name, line in lines.items() if "sweeps" in line["ours"]}
    return [
        f"`{name}`: the sweep ahead takes {_share(both['ahead'])} of the time, the sweep back {_share(both['back'])}."
        for name, both in swept.items()
    ]


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _lost(line: Record, kind: str) -> bool:
    return line["plain_over_ours"][kind] < line["asked"].get(kind, 0.0)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def growth() -> list[str]:
    """A row for each curve: its points, and how far it is from what is asked of it."""
    lines = {line["curve"]: line for line in records("growth")}
    rows = [
        [
            f"`{name}`",
            _through(f"{point['size']:,}" for point in line["points"]),
            _through(f"{point['seconds']:.2g}" for point in line["points"]),
            _through(f"{point.get('above_images_mib', point['excess_mib']):.0f}" for point in line["points"]),
            "; ".join(
                bold(f"{_named(what)}: {ratio:.2f}", when=ratio > MOST) for what, ratio in line["ratios"].items()
            ),
        ]
        for name, line in lines.items()
    ]
    last = [*lines.values()][-1]
    told = f"Seconds of the process on the CPU, one thread, {last['hardware']['cpu']}. Bold: more than {MOST:g}."
    return [*table(["curve", "sizes", "seconds", "MiB", "ratio"], rows), "", *bullets(told)]


def _named(ratio: str) -> str:
    """`excess_mib, the last over the first` with the measure's unit for its name."""
    measure, comma, rest = ratio.partition(",")
    return _WORDS.get(measure, measure) + comma + rest


def _through(values: Iterable[str]) -> str:
    return ", ".join(values)


BLOCKS = {
    **({"peers": peers} if (RESULTS / "peers.jsonl").exists() else {}),
    **({"peers-profile": profiles} if (RESULTS / "peers_profile.jsonl").exists() else {}),
    **({"growth": growth} if (RESULTS / "growth.jsonl").exists() else {}),
}
