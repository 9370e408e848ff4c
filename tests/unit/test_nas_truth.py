"""Tables of the truth that a user gives, and the cells of NAS-Bench-201 as strings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from dd_apps.nas import cells, columns, truth
from dd_core.errors import UserError

A = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
B = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
EVERY = [cells.architecture(chosen) for chosen in product(cells.OPERATIONS, repeat=6)]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, header: str = "architecture,cifar10,cifar100") -> Path:
        path = tmp_path / "truth.csv"
        path.write_text("".join(f"{line}\n" for line in (header, *lines) if line is not None))
        return path

    return write


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        truth.read(path, **options)
    line = str(error.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line.removeprefix(str(path))


# --- cells -------------------------------------------------------------------------------------------------------


def test_the_operations_of_a_cell_are_those_of_its_edges():
    assert cells.EDGES == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert cells.operations(A) == ("nor_conv_3x3", "none", "skip_connect", "avg_pool_3x3", "none", "nor_conv_1x1")
    assert cells.architecture(cells.operations(A)) == A
    assert len({*EVERY}) == 15_625


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (A.replace("avg_pool_3x3", "max_pool_3x3"), "unknown operation 'max_pool_3x3'; did you mean 'avg_pool_3x3'?"),
        (A.replace("none~1", "none~2"), "is no cell of NAS-Bench-201"),
        (A[:-1], "is no cell of NAS-Bench-201"),
        (f"{A}\n", "is no cell of NAS-Bench-201"),
        ("convnet-3" * 100, "...' is no cell of NAS-Bench-201"),
    ],
)
def test_what_is_no_cell_is_refused(text: str, words: str):
    with pytest.raises(UserError) as error:
        cells.operations(text)
    assert words in str(error.value)
    assert len(str(error.value)) < 300


def test_a_cell_is_made_of_six_operations_that_there_are():
    with pytest.raises(UserError, match="has 6 operations, not 5"):
        cells.architecture(["none"] * 5)
    with pytest.raises(UserError, match="unknown operation 'conv_1x1'"):
        cells.architecture(["conv_1x1"] * 6)


def test_cells_are_as_many_expressions_as_was_published():
    assert len({cells.canonical(architecture) for architecture in EVERY}) == 6_466


def test_cells_that_are_one_network_have_one_expression():
    def expression(*chosen: str) -> str:
        return cells.canonical(cells.architecture(chosen))

    conv, one, pool, skip, none = "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect", "none"
    assert expression(conv, none, none, one, skip, none) == "#+(0)@nor_conv_1x1+(0)@nor_conv_3x3"
    # the order of a sum
    assert expression(skip, one, conv, none, none, pool) == expression(skip, conv, one, none, none, pool)
    # nodes that nothing reads
    assert expression(pool, conv, one, skip, none, none) == expression(none, none, none, skip, none, none) == "#+#+0"
    # operations on nothing
    assert expression(none, none, none, skip, conv, none) == "#+#+0"
    assert expression(conv, none, none, none, conv, none) != expression(conv, none, none, none, skip, none)


# --- tables ------------------------------------------------------------------------------------------------------


def test_a_table_has_the_accuracies_of_its_columns(table):
    read = truth.read(table(f"{A}, 91.5,68", "", f"{B},10,1.5"))
    assert read.columns == {"cifar10": {A: 91.5, B: 10.0}, "cifar100": {A: 68.0, B: 1.5}}
    assert [*read.architectures] == [A, B]
    assert read.accuracies("cifar100") == {A: 68.0, B: 1.5}
    assert read.accuracies("cifar100", [B]) == {B: 1.5}


def test_columns_are_found_by_name(table):
    path = table(f"x,68,{A},91.5", header="\ufeffnote, cifar100 ,architecture,cifar10")
    assert truth.read(path, ["cifar10"]).columns == {"cifar10": {A: 91.5}}
    assert truth.read(path, ["cifar100", "cifar10"]).columns == {"cifar100": {A: 68.0}, "cifar10": {A: 91.5}}
    assert refusal(path) == ", line 2, note: 'x' is no accuracy in percent; expected a number from 0 to 100"


def test_a_repeated_architecture_has_the_same_accuracies(table):
    assert truth.read(table(f"{A},91.5,68", f"{A},91.50,68.0")).accuracies("cifar10") == {A: 91.5}
    line = refusal(table(f"{A},91.5,68", f"{B},10,1.5", f"{A},91.5,67"))
    assert line == f", line 4: {A} has other accuracies in an earlier line; give each architecture once"


@pytest.mark.parametrize("number", ["", "high", "nan", "inf", "-0.1", "100.1", "9_1"])
def test_what_is_no_accuracy_is_refused_with_its_line(table, number: str):
    line = refusal(table(f"{B},10,1.5", f"{A},{number},68"))
    assert line == f", line 3, cifar10: {number!r} is no accuracy in percent; expected a number from 0 to 100"


@pytest.mark.parametrize(
    ("lines", "header", "words"),
    [
        ([], None, ": the file is empty"),
        ([], "architecture,cifar10", ": no architectures below the header"),
        ([f"{A},91"], "arch,cifar10", ": the column 'architecture' is missing from the header arch, cifar10"),
        ([f"{A},91"], "architecture", ": no column of accuracies beside 'architecture'"),
        (
            [f"{A},91,91"],
            "architecture,cifar10,cifar10",
            ": the header architecture, cifar10, cifar10 names a column twice",
        ),
        ([f"{A},91"], "architecture,a,b", ", line 2: 2 values where the header has 3"),
        (
            [f"{A},1", f"{B},0.1"],
            "architecture,a",
            ": no accuracy of column 'a' is above 1; accuracies are in percent, ",
        ),
        ([f"{A},0.91"], "architecture,a", "not fractions"),
        (["|none~0|,91"], "architecture,a", ", line 2: '|none~0|' is no cell of NAS-Bench-201"),
        ([f"{A.replace('none', 'zero')},91"], "architecture,a", ", line 2: unknown operation 'zero'"),
        ([f'"{A},91'], "architecture,a", ", line 2: unexpected end of data"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(table, lines: list[str], header: str | None, words: str):
    assert words in refusal(table(*lines, header=header))


def test_a_column_that_is_asked_for_has_to_be_there(table):
    path = table(f"{A},91.5,68")
    assert ": unknown column of accuracies 'cifar'; did you mean 'cifar10" in refusal(path, columns=["cifar"])
    with pytest.raises(UserError, match="unknown column of accuracies 'cifar1'"):
        truth.read(path).accuracies("cifar1")
    with pytest.raises(UserError, match=r"^2 architectures of 3 not in the table: b$"):
        truth.read(path).accuracies("cifar10", ["b", A, "c"])


def test_reading_is_bounded(table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(columns, "LARGEST", 2**20)
    path = table(f"{A},91.5,68")
    path.write_bytes(path.read_bytes().ljust(2**20, b"\n"))
    assert truth.read(path).accuracies("cifar10") == {A: 91.5}
    path.write_bytes(path.read_bytes() + b"\n")
    assert refusal(path) == ": larger than the 1 MiB of the largest table that is read"
    path.write_bytes(b"architecture,a\n\xff,91\n")
    assert refusal(path) == ": no CSV file in UTF-8: invalid start byte at byte 15"
    path.write_text(f"architecture,a\n{'x' * 200_000},1\n")
    assert "field larger than field limit" in refusal(path)
    assert "No such file" in refusal(tmp_path / "none.csv")
    assert "directory" in refusal(tmp_path)


def test_other_architectures_have_a_check_of_their_own(table):
    def check(architecture: str) -> None:
        if not architecture.startswith("convnet"):
            raise UserError(f"'{architecture}' is no ConvNet")

    assert truth.read(table("convnet-3,80,40"), check=check).accuracies("cifar10") == {"convnet-3": 80.0}
    assert refusal(table("lenet,80,40"), check=check) == ", line 2: 'lenet' is no ConvNet"


# --- draws -------------------------------------------------------------------------------------------------------


def test_a_draw_has_the_architectures_of_the_smallest_numbers(table):
    names = EVERY[:50]
    numbers = {
        name: hashlib.blake2b(f"7\0architecture {name}\x000".encode(), digest_size=8).hexdigest() for name in names
    }
    # a number of 63 bits leaves the last one out, which orders nothing here
    assert truth.draw(names, 20, seed=7) == tuple(sorted(names, key=numbers.__getitem__)[:20])


def test_draws_depend_on_the_seed_alone():
    draw = truth.draw(EVERY, 100, seed=0)
    assert len({*draw}) == 100
    assert truth.draw(EVERY[::-1], 100, seed=0) == draw
    assert truth.draw([*EVERY, *EVERY], 50, seed=0) == draw[:50]
    assert len({*draw} & {*truth.draw(EVERY, 100, seed=1)}) < 10
    assert draw[0] == "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|"


@pytest.mark.parametrize("count", [0, 3])
def test_no_more_are_drawn_than_there_are(table, count: int):
    read = truth.read(table(f"{A},91.5,68", f"{B},10,1.5"))
    assert {*read.draw(2, seed=0)} == {A, B}
    with pytest.raises(UserError, match=rf"^count={count}: between 1 and 2 architectures can be drawn$"):
        read.draw(count, seed=0)
