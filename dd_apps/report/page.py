"""A report as Markdown, and as one self-contained HTML page: no network, no script, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from dd_apps.report.sections import Picture, Section, Text
from dd_apps.report.tables import Table, markdown, printable


def markdown_page(title: str, origin: str, sections: Sequence[Section]) -> str:
    """The report as GitHub Markdown; pictures are files that lie beside it."""
    return "\n".join([f"# {printable(title)}\n", f"{printable(origin)}\n", *_in_markdown(sections)])


def html_page(title: str, origin: str, sections: Sequence[Section]) -> str:
    """The report as one HTML file, with its pictures in it. Whatever names and notes contain is shown as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # no verb but `run` needs it

    loader = PackageLoader("dd_apps.report", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    kinds = {"is_table": _is_table, "is_picture": _is_picture}
    page = environment.get_template("page.html", globals={"printable": printable, "data": _data, "numbers": _numbers})
    return page.render(title=title, origin=origin, sections=sections, **kinds)


def _in_markdown(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        if isinstance(section, Table):
            yield markdown(section)
        elif isinstance(section, Picture):
            note = f"\n{printable(section.note)}\n" if section.note else ""
            yield f"## {printable(section.title)}\n\n![{section.name}]({section.name}.png)\n{note}"
        else:
            yield f"## {printable(section.title)}\n\n{_text_in_markdown(section)}\n"


def _text_in_markdown(section: Text) -> str:
    if not section.code:
        return printable(section.text)
    lines = [printable(line) for line in section.text.splitlines()]
    return "\n".join(["```", *(line.replace("```", "` ` `") for line in lines), "```"])


def _data(picture: Picture) -> str:
    """The picture as a `data:` URL: its SVG file if it has one, else its PNG file."""
    content, kind = (picture.png, "png") if picture.svg is None else (picture.svg, "svg+xml")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _numbers(table: Table) -> list[bool]:
    """For each column, whether none of its cells is text."""
    columns = [[row.get(column) for row in table.rows] for column in table.columns()]
    return [not any(isinstance(value, str) for value in values) for values in columns]


def _is_table(section: Section) -> bool:
    return isinstance(section, Table)


def _is_picture(section: Section) -> bool:
    return isinstance(section, Picture)
