"""The README's block of `make bench-peers`: the engine beside plain references, on one core."""

from __future__ import annotations

from cells import Record, bold, bullets, records, table
from record import RESULTS


def measured() -> list[Record]:
    """The newest record of each case and part, in the order of the cases."""
    return list({(line["case"], line["part"]): line for line in records("peers")}.values())


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


def _lost(line: Record, kind: str) -> bool:
    return line["plain_over_ours"][kind] < line["asked"].get(kind, 0.0)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


BLOCKS = {"peers": peers} if (RESULTS / "peers.jsonl").exists() else {}
