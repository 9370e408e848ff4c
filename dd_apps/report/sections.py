"""What a report consists of, in the order of the report: tables, pictures and texts."""

from __future__ import annotations

from dataclasses import dataclass

from dd_apps.report.tables import Table


@dataclass(frozen=True)
class Picture:
    """A picture as a PNG file and, where it was drawn as lines, as an SVG file; `name` is that of the files."""

    name: str
    title: str
    png: bytes
    svg: bytes | None = None
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `code` lines that are shown as they are."""

    title: str
    text: str
    code: bool = False


Section = Table | Picture | Text
