"""The sections of a report: tables, pictures and texts."""

from __future__ import annotations

from dataclasses import dataclass

from dd_apps.report.tables import Table


@dataclass(frozen=True)
class Picture:
    """A picture as a PNG file and, if it is a plot, as an SVG file; `name` is the files' name without suffix."""

    name: str
    title: str
    png: bytes
    svg: bytes | None = None
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; with `code`, lines that are shown verbatim."""

    title: str
    text: str
    code: bool = False


Section = Table | Picture | Text
