"""Columns of a folder's files: what goes in comes out, as from lists of Python's objects."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from dd_core.config import digest, digest_of_list, digest_of_lists
from dd_core.datasets import file_rows
from dd_core.datasets.decoding import Header, ImageFile
from dd_core.datasets.file_rows import HEADER, Headers, ImageFiles, Names

TEXTS = ["dog/1.png", "", "cat/\u00fc\udcff.png", "cat/10.png", "\U0001f600", "cat/9.png", "dog/1.png"]


@pytest.fixture(autouse=True)
def _few_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rows, "_TOGETHER", 3)


@pytest.mark.parametrize("count", [0, 1, len(TEXTS)])
def test_names_are_the_texts(count: int) -> None:
    texts = TEXTS[:count]
    names = Names.of(iter(texts))
    assert len(names) == count
    assert [*names] == [names[row] for row in range(count)] == texts
    assert names.block.nbytes + names.ends.nbytes == sum(len(t.encode(errors="surrogateescape")) + 8 for t in texts)


def test_rows_are_counted_from_the_end_too() -> None:
    names = Names.of(TEXTS)
    assert [names[-row] for row in range(1, len(TEXTS) + 1)] == TEXTS[::-1]
    assert [*names.take(np.array([-1, -len(TEXTS)]))] == [TEXTS[-1], TEXTS[0]]
    with pytest.raises(IndexError):
        names[len(TEXTS)]


def test_names_are_taken_in_the_order_of_the_rows() -> None:
    rows = [6, 0, 0, 4, 2]
    assert [*Names.of(TEXTS).take(np.array(rows))] == [TEXTS[row] for row in rows]


FILES = [ImageFile(text, f"{row:064x}") for row, text in enumerate(TEXTS)]


def image_files(files: list[ImageFile]) -> ImageFiles:
    sha256 = np.array([[*bytes.fromhex(file.sha256)] for file in files], dtype=np.uint8).reshape(-1, 32)
    return ImageFiles(Names.of(file.name for file in files), sha256)


def test_image_files_are_those_of_a_list() -> None:
    files = image_files(FILES)
    assert [*files] == FILES
    assert [*files[2:5]] == FILES[2:5]
    assert [*files[::-2]] == FILES[::-2]
    assert [*files.take(np.array([5, 1]))] == [FILES[5], FILES[1]]
    assert [*pickle.loads(pickle.dumps(files))] == FILES


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 9000])
def test_the_digest_of_a_long_list_is_the_digest_of_a_list(count: int) -> None:
    files = [ImageFile(f"\u00fc/{row}\udc80", f"{row:064x}") for row in range(count)]
    labels = [row % 7 for row in range(count)]
    columns = image_files(files)
    assert digest_of_list(columns) == digest_of_list(files) == digest(files)
    for numbers in (None, labels):
        assert digest_of_lists((3, 8, 8), ("cat", "dog"), numbers, columns) == digest(
            [(3, 8, 8), ("cat", "dog"), numbers, files]
        )


def header(seed: int) -> Header:
    draw = np.random.default_rng(seed)
    grey, transparent, constant = (bool(value) for value in draw.integers(2, size=3))
    width, height = draw.integers(1, 2**31 - 1, size=2).tolist()
    levels = ("", "00ff", "07", "00" * 32)[int(draw.integers(4))]
    return Header(grey, width, height, transparent, constant, int(draw.integers(2**32)), levels)


def listed(headers: Headers) -> list[Header]:
    return [
        Header(*(row[name].item() for name in Header._fields[:-1]), headers.levels[row["levels"]])
        for row in headers.table
    ]


def test_headers_come_out_as_they_were_put() -> None:
    headers, wanted = Headers(np.zeros(20, dtype=HEADER)), [header(seed) for seed in range(20)]
    assert not headers.known.any()
    for row in (*range(0, 20, 2), *range(1, 20, 2)):
        headers.put(row, wanted[row])
    assert headers.known.all()
    assert listed(headers) == wanted
    rows = np.array([3, 3, 19])
    assert listed(headers.take(rows)) == [wanted[row] for row in rows]


def test_copied_headers_keep_their_levels_under_other_numbers() -> None:
    one, other = (Headers(np.zeros(3, dtype=HEADER)) for _ in range(2))
    for row, levels in enumerate(("00", "01", "02")):
        one.put(row, header(row)._replace(levels=levels))
        other.put(row, header(10 + row)._replace(levels=("03", "02", "00")[row]))
    one.copy(np.array([2, 0]), other.table[[0, 2]], one.numbers_of(other.levels))
    assert [each.levels for each in listed(one)] == ["00", "01", "03"]
    assert [each.checksum for each in listed(one)] == [header(seed).checksum for seed in (12, 1, 10)]
