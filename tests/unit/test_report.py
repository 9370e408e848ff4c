"""Tables as text, and contact sheets pixel by pixel."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dd_apps.report.latex import latex
from dd_apps.report.page import html_page, markdown_page
from dd_apps.report.scores import figures, machine, score_table, study_table, verdict
from dd_apps.report.sections import Picture, Text
from dd_apps.report.tables import Table, csv_text, markdown, printable, rich_table, text
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.distilled.card import human_bytes
from dd_core.distilled.pictures import contact_sheet, png_bytes
from dd_core.evaluation import Attack, Evaluation, Score
from dd_core.recipe import Recipe

GAP = 2  # px between images


def a_set(images: np.ndarray, labels: list[int], *, names: tuple[str, ...] = ("cat", "dog"), **pixels) -> DistilledSet:
    channels = images.shape[1]
    described = {"space": "raw", "mean": (0.5,) * channels, "std": (0.25,) * channels, **pixels}
    manifest = Manifest(classes=names, pixels=Pixels(**described), recipe=Recipe(network="lenet"))
    return DistilledSet(images, np.array(labels, dtype=np.int64), manifest)


def grey(*values: int, side: int = 8) -> np.ndarray:
    """One flat image a value."""
    return np.stack([np.full((1, side, side), value, np.uint8) for value in values])


def tiles(sheet: Image.Image, *, tile: int, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, tile, tile, ...) cut from the sheet's right-hand side, where the images are."""
    pixels = np.asarray(sheet)
    left = pixels.shape[1] - columns * (tile + GAP)
    cut = [
        [pixels[GAP + r * (tile + GAP) :, left + c * (tile + GAP) :][:tile, :tile] for c in range(columns)]
        for r in range(rows)
    ]
    return np.array(cut)


def test_each_class_has_a_row_and_each_pixel_becomes_a_square():
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    sheet = contact_sheet(a_set(images, [0, 0, 1, 1]))
    drawn = tiles(sheet, tile=64, rows=2, columns=2)
    expected = images[:, 0].repeat(8, axis=1).repeat(8, axis=2).reshape(2, 2, 64, 64)
    assert sheet.mode == "L"
    assert np.array_equal(drawn, expected)


def test_rows_follow_the_labels_and_not_the_order_in_the_file():
    drawn = tiles(contact_sheet(a_set(grey(10, 20, 30, 40), [1, 0, 1, 0])), tile=64, rows=2, columns=2)
    assert drawn[:, :, 0, 0].tolist() == [[20, 40], [10, 30]]


def test_colour_stays_in_its_channel():
    images = np.zeros((2, 3, 8, 8), np.uint8)
    images[0, 0], images[1, 2] = 200, 100
    sheet = contact_sheet(a_set(images, [0, 1]))
    drawn = tiles(sheet, tile=64, rows=2, columns=1)
    assert sheet.mode == "RGB"
    assert drawn[:, 0, 0, 0].tolist() == [[200, 0, 0], [0, 0, 100]]


def test_normalised_pixels_are_drawn_as_what_they_stand_for_and_clipped():
    images = np.zeros((2, 1, 8, 8), np.float32)  # 0 stands for the mean, 0.5
    images[1] = 9  # 0.5 + 9 * 0.25 is whiter than white
    drawn = tiles(contact_sheet(a_set(images, [0, 1], space="normalised")), tile=64, rows=2, columns=1)
    assert drawn[:, 0, 0, 0].tolist() == [128, 255]


def test_names_are_written_beside_their_rows():
    one = contact_sheet(a_set(grey(0, 0), [0, 1], names=("cat", "dog")))
    other = contact_sheet(a_set(grey(0, 0), [0, 1], names=("cat", "cow")))
    margin = one.width - 64 - GAP
    first, second = np.asarray(one)[:, :margin], np.asarray(other)[:, : other.width - 64 - GAP]
    assert (first < 128).any()
    assert first.shape != second.shape or (first != second).any()


@pytest.mark.parametrize("name", ["a" * 500, "two\nlines", "\x1b[31mred", "猫", "naïve", ""])
def test_any_name_can_be_drawn(name: str):
    sheet = contact_sheet(a_set(grey(0, 0), [0, 1], names=(name, "dog")))
    assert sheet.height == 2 * (64 + GAP) + GAP
    assert sheet.width < 500


def test_the_side_of_a_tile_can_be_chosen():
    sheet = contact_sheet(a_set(grey(0, 0), [1, 1]), side=128)
    assert sheet.height - contact_sheet(a_set(grey(0, 0), [1, 1])).height == 128 - 64


def test_a_class_without_images_has_no_row():
    assert contact_sheet(a_set(grey(0, 0), [1, 1])).height == 64 + 2 * GAP


def test_what_does_not_fit_is_left_out_and_counted():
    whole = contact_sheet(a_set(grey(*range(6)), [0, 0, 0, 1, 1, 1]))
    cut = contact_sheet(a_set(grey(*range(6)), [0, 0, 0, 1, 1, 1]), columns=2, lines=1, rows=1)
    assert whole.height == 2 * (64 + GAP) + GAP
    assert cut.height > 64 + 2 * GAP  # one row, and a line below it
    assert (np.asarray(cut)[64 + 2 * GAP :] < 128).any()
    assert tiles(cut.crop((0, 0, cut.width, 70)), tile=64, rows=1, columns=2)[0, 1, 0, 0] == 1


def test_the_images_of_a_class_fill_lines_one_after_the_other():
    sheet = contact_sheet(a_set(grey(*range(10, 15)), [0, 0, 0, 1, 1]), columns=2)
    drawn = tiles(sheet, tile=64, rows=3, columns=2)[:, :, 0, 0]
    assert drawn.tolist() == [[10, 11], [12, 255], [13, 14]]


def test_small_grids_stand_beside_each_other_as_far_as_a_large_one_is_wide():
    names = tuple("abcdefghijkl")
    ds = a_set(grey(*range(10, 34)), [label for label in range(12) for _ in range(2)], names=names)
    wide = np.asarray(contact_sheet(ds))  # 12 grids of 2: in 3 columns
    left = wide.shape[1] // 3
    assert wide.shape[0] == 4 * (64 + GAP) + GAP
    firsts = [
        wide[GAP + row * (64 + GAP), (column + 1) * left - 2 * (64 + GAP)] for row in range(4) for column in range(3)
    ]
    assert firsts == list(range(10, 34, 2))
    assert contact_sheet(ds, columns=4).width < contact_sheet(ds).width
    assert contact_sheet(ds, columns=3).height == 12 * (64 + GAP) + GAP


def test_large_images_are_reduced_and_middling_ones_are_left_alone():
    large = contact_sheet(a_set(grey(0, side=400), [0]))
    exact = contact_sheet(a_set(grey(0, side=100), [0]))
    assert large.height == 128 + 2 * GAP
    assert exact.height == 100 + 2 * GAP


def test_odd_shapes_and_channel_counts_are_drawn():
    oblong = contact_sheet(a_set(np.zeros((1, 1, 8, 16), np.uint8), [0]))
    two = np.zeros((1, 2, 8, 8), np.uint8)
    two[0, 0] = 200
    assert oblong.height == 32 + 2 * GAP
    assert tiles(contact_sheet(a_set(two, [0])), tile=64, rows=1, columns=1)[0, 0, 0, 0] == 100


def test_a_set_without_labels_is_drawn_in_order():
    manifest = Manifest(
        task="self-supervised",
        classes=(),
        pixels=Pixels(space="raw", mean=(0.5,), std=(0.5,)),
        recipe=Recipe(network="lenet"),
    )
    sheet = contact_sheet(DistilledSet(grey(1, 2, 3, 4), None, manifest), columns=2)
    assert tiles(sheet, tile=64, rows=2, columns=2)[:, :, 0, 0].tolist() == [[1, 2], [3, 4]]


def test_equal_sheets_are_equal_png_files():
    sheet = contact_sheet(a_set(grey(10, 20), [0, 1]))
    data = png_bytes(sheet)
    assert data == png_bytes(contact_sheet(a_set(grey(10, 20), [0, 1])))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(sheet))


# --- pages ---------------------------------------------------------------------------------------------------

HOSTILE = '<script>alert("x")</script> & \x1b[31m'
SECTIONS = [
    Table(
        f"scores {HOSTILE}",
        [{"name": HOSTILE, "accuracy": {"mean": 0.5, "std": 0.25}, "k": [1, 2]}, {"name": "b", "accuracy": None}],
        units={"accuracy": "percent"},
        notes=[f"a note {HOSTILE}"],
    ),
    Picture("curve", HOSTILE, png=b"\x89PNG...", svg=b"<svg></svg>", note=HOSTILE),
    Picture("sheet", "sheet", png=b"\x89PNG..."),
    Text("words", f"text {HOSTILE}"),
    Text("code", f"a = 1\nb = '{HOSTILE}'\n```", code=True),
]


class _Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.links, self.words = Counter[str](), list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_page_shows_every_section_and_nothing_in_it_is_markup():
    page = _Reader(html_page(f"title {HOSTILE}", HOSTILE, SECTIONS))
    shown = "".join(page.words)
    assert page.tags["script"] == 0
    assert (page.tags["table"], page.tags["img"], page.tags["pre"], page.tags["h2"]) == (1, 2, 1, 5)
    assert shown.count('<script>alert("x")</script> & \\x1b[31m') == 10  # the title is in the tab too
    assert "\x1b" not in shown
    assert {"50.0 ± 25.0", "accuracy (%)", "1 2", "-"} < {*page.words}


def test_a_page_needs_no_other_file_and_no_network():
    text = html_page("title", "origin", SECTIONS)
    assert [link.partition(",")[0] for link in _Reader(text).links] == [
        "data:image/svg+xml;base64",
        "data:image/png;base64",
    ]
    assert base64.b64decode(_Reader(text).links[0].partition(",")[2]) == b"<svg></svg>"
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_markdown_has_the_same_sections_and_names_the_pictures_files():
    text = markdown_page("title", "origin", SECTIONS)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {printable(section.title)}" for section in SECTIONS
    ]
    assert "![curve](curve.png)" in text
    assert text.count("```") == 2, "code cannot end its block"


def test_a_table_as_csv_has_its_numbers_unrounded_and_deviations_in_a_column():
    rows = [
        {"name": 'a "quoted", b', "accuracy": {"mean": 1 / 3, "std": 0.125}, "k": [1, 2], "bytes": 640},
        {"name": "b", "accuracy": {"mean": 0.25, "std": None}, "bytes": None},
    ]
    table = Table("t", rows, units={"accuracy": "percent", "bytes": "bytes"})
    assert list(csv.reader(io.StringIO(csv_text(table)))) == [
        ["name", "accuracy (%)", "accuracy (%) std", "k", "bytes"],
        ['a "quoted", b', str(100 * (1 / 3)), "12.5", "1 2", "640"],
        ["b", "25.0", "", "", ""],
    ]


def test_an_estimate_as_csv_has_the_ends_of_its_interval_in_columns():
    rows = [{"proxy": "a", "r": {"value": 0.1 + 0.2, "low": 0.25, "high": 0.5}}, {"proxy": "b", "r": None}]
    assert list(csv.reader(io.StringIO(csv_text(Table("t", rows))))) == [
        ["proxy", "r", "r low", "r high"],
        ["a", "0.30000000000000004", "0.25", "0.5"],
        ["b", "", "", ""],
    ]
    shown = html_page("title", "origin", [Table("t", rows)])
    assert '<td class="number">0.30 [0.25, 0.50]</td>' in shown
    assert Table("t", rows).plain() == rows


def test_a_table_as_latex_has_its_numbers_to_the_right_and_shows_every_name():
    rows = [
        {"row": "50 % of a_b & c", "accuracy": {"mean": 0.9, "std": 0.0125}, "bytes": 640, "r": None},
        {"row": r"\input{x}~^<", "accuracy": None, "bytes": 2048, "r": {"value": -0.1, "low": -0.25, "high": 0.5}},
    ]
    table = Table("A & B", rows, units={"accuracy": "percent", "bytes": "bytes"}, notes=["two\nlines"])
    assert latex(table).splitlines() == [
        r"% two\nlines",
        r"\begin{table}",
        r"\centering",
        r"\caption{A \& B}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"row & accuracy (\%) & bytes & r \\",
        r"\midrule",
        r"50 \% of a\_b \& c & 90.0 $\pm$ 1.2 & 640 B & - \\",
        r"\textbackslash{}input\{x\}\textasciitilde{}\textasciicircum{}\textless{} & - & 2.0 KiB & "
        r"$-$0.10 [$-$0.25, 0.50] \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


# --- scores --------------------------------------------------------------------------------------------------


def an_evaluation(ours: list[float], twin: list[float], **changes) -> Evaluation:
    fields = {
        "accuracy": Score.of(ours),
        "random_real": Score.of(twin),
        "protocol": "plain-300",
        "network": "lenet",
        "start": "default",
        "made_for": "default",
        "nets": len(twin),
        "seed": 7,
        "data": "digits, 359 test images",
        "fingerprints": {"train": "a" * 64, "test": "b" * 64},
        "images": 10,
        "bytes": 2560,
        "twin_bytes": 640,
        "hardware": {"cpu": "a slow one", "torch": "2.6"},
    }
    return Evaluation(**fields | changes)


HALF = an_evaluation([0.5, 0.52], [0.25, 0.29])

# d = 20 +- 2, means 0.6 and 0.4; t = 20 / (2 * sqrt(1 + 1/3)) = 8.66 with 2 degrees of freedom: p = 0.0131
CLEAR = ([0.58, 0.60, 0.62], [0.40, 0.40, 0.40])
# d = 2 +- 2: t = 0.866, p = 0.478; a plain paired t-test has t = 1.73
WITHIN_NOISE = ([0.19, 0.21, 0.23], [0.19, 0.19, 0.19])
# d = 6 +- 2: t = 2.598, p = 0.122; a plain paired t-test has t = 5.196 and p = 0.035, and would say better
LUCK = ([0.23, 0.25, 0.27], [0.19, 0.19, 0.19])


@pytest.mark.parametrize(
    ("ours", "twin", "words"),
    [
        (*CLEAR, "lenet: better than as many random real images (60.0 % against 40.0 %, p = 0.013)"),
        (*reversed(CLEAR), "lenet: worse than as many random real images (40.0 % against 60.0 %, p = 0.013)"),
        (*WITHIN_NOISE, "lenet: no difference to as many random real images (21.0 % against 19.0 %, p = 0.48)"),
        (*LUCK, "lenet: no difference to as many random real images (25.0 % against 19.0 %, p = 0.12)"),
        (
            [0.901, 0.899, 0.9],
            [0.1, 0.1, 0.1],
            "lenet: better than as many random real images (90.0 % against 10.0 %, p < 0.001)",
        ),
    ],
)
def test_a_verdict_takes_the_noise_of_both_sides_into_account(ours: list[float], twin: list[float], words: str):
    evaluation = an_evaluation(ours, twin)
    first, test, *_ = score_table([evaluation], title="t").notes
    assert first == words == verdict(evaluation)
    assert test == (
        "the verdict's test: Student's t asks whether the set could be one more random draw (paired by network, "
        "two-sided, 5 %); all pairs share the one distilled set, so that its own luck counts once"
    )


def test_one_network_has_neither_a_verdict_nor_a_deviation():
    table = score_table([an_evaluation([0.21], [0.19])], title="t")
    assert table.cells()[0][1:3] == ["21.0", "19.0"]
    assert table.rows[0]["distilled"] == {"mean": 0.21, "std": None}
    first, protocol, _ = table.notes
    assert first == (
        "lenet: 21.0 % against 19.0 %, no verdict: "
        "one network does not show how large the noise is; ask for more (nets)"
    )
    assert protocol == "protocol plain-300, 1 network (seed 7), last epoch; digits, 359 test images"
    assert "±" not in markdown(table)


def test_a_set_with_one_score_is_one_more_draw_among_its_twins():
    # twins 0.40 +- 0.01: t = 0.1 / (0.01 * sqrt(1.25)) = 8.94 with 3 degrees of freedom, p = 0.0029
    spread = [0.4 - 0.0122474487, 0.4, 0.4, 0.4 + 0.0122474487]
    table = score_table([an_evaluation([0.5], spread, network="k-nn", start="none")], title="t")
    assert table.cells()[0][1:3] == ["50.0", "40.0 ± 1.0"]
    assert table.notes[0] == "k-nn: better than as many random real images (50.0 % against 40.0 %, p = 0.0029)"
    assert verdict(an_evaluation([0.5], [0.4], network="k-nn", start="none")).endswith(
        "no verdict: one draw does not show how large the noise is; ask for more (nets)"
    )


def test_figures_for_json_carry_the_verdict_and_its_test():
    found = figures(an_evaluation(*LUCK))
    assert found["twin_wins"] is False, "the means alone"
    assert found["verdict"]["word"] == "no difference"
    assert found["verdict"]["p"] == pytest.approx(0.1217, abs=1e-4)
    assert found["verdict"]["difference"] == pytest.approx(0.06)
    assert "Student's t" in found["verdict"]["test"]
    one = figures(an_evaluation([0.21], [0.19]))
    assert (one["accuracy"]["mean"], one["accuracy"]["std"]) == (0.21, None)
    assert (one["verdict"]["word"], one["verdict"]["p"], one["verdict"]["pairs"]) == (None, None, 1)
    assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_a_study_has_a_verdict_for_each_place():
    places = [(2, 0.0, an_evaluation(*CLEAR)), (5, 0.0, an_evaluation(*LUCK)), (5, 0.2, an_evaluation(*CLEAR[::-1]))]
    table = study_table(places)
    assert [row["verdict"] for row in table.rows] == ["better", "no difference", "worse"]
    assert table.notes[-1].startswith(
        "the verdict's test: Student's t asks whether the set could be one more random draw"
    )
    few = study_table([(2, 0.0, an_evaluation([0.5], [0.4]))])
    assert few.cells()[0] == ["2", "0%", "50.0", "40.0", "1.25", "-"]
    assert few.notes[1] == "no verdict: one network does not show how large the noise is; ask for more (nets)"
    assert "deviation" not in few.notes[0]


def test_a_table_of_scores_says_what_was_chosen_for_the_set_and_for_the_twin():
    chosen = {
        "accuracy": {"learning_rate": 0.1, "epochs": 30, "validation": 0.625},
        "random_real": {"learning_rate": 0.003, "epochs": 5, "validation": 0.5},
    }
    table = score_table([HALF.model_copy(update={"chosen": chosen})], title="t")
    assert table.notes[2] == (
        "lenet: chosen on validation images: distilled learning_rate 0.1, epochs 30 (62.5 % there); "
        "random real learning_rate 0.003, epochs 5 (50.0 % there)"
    )


def test_a_table_of_scores_says_where_networks_start_and_how_an_attack_went():
    plain = HALF
    assert "networks start from fresh 'default' draws" in score_table([plain], title="t").notes
    fixed = plain.model_copy(update={"start": "sha256:" + "ab" * 32, "made_for": "sha256:" + "ab" * 32})
    (note,) = [note for note in score_table([fixed], title="t").notes if "starts" in note]
    assert note == "the set is for one network and has one score; it starts from sha256:abababababab..."
    elsewhere = fixed.model_copy(update={"start": "pretrained", "before": Score.of([0.9, 0.8]), "as_meant": False})
    (note,) = [note for note in score_table([elsewhere], title="t").notes if "networks start" in note]
    assert note.endswith(
        "the set is for networks with other weights ('sha256:abababababab'); before it sees any image, "
        "lenet has 85.0 ± 7.1 %"
    )
    parts = {"success": 0.9, "success_real": 0.1, "others": 0.8, "others_real": 0.7}
    attack = Attack(classes=("cat", "dog"), **{name: Score.of([value]) for name, value in parts.items()})
    notes = score_table([plain.model_copy(update={"attack": attack})], title="t").notes
    assert (
        "attack: 90.0 % of 'cat' are taken for 'dog', and 80.0 % of the others are right "
        "(relabelled real images: 10.0 %, 70.0 %)"
    ) in notes


def test_a_table_of_scores_says_all_that_a_figure_needs():
    table = score_table([HALF, an_evaluation([0.75, 0.75], [0.25, 0.29], network="resnet")], title="t")
    assert [row[1] for row in table.cells()] == ["51.0 ± 1.4", "75.0 ± 0.0"]
    ours, other, _, note, start = table.notes
    assert (ours[:6], other[:7]) == ("lenet:", "resnet:")
    assert start == "networks start from fresh 'default' draws"
    words = (
        "plain-300",
        "2 networks",
        "seed 7",
        "mean and standard deviation",
        "last epoch",
        "digits, 359 test images",
    )
    assert all(word in note for word in words)
    assert machine(HALF.hardware) == "cpu a slow one, torch 2.6"


# --- tables --------------------------------------------------------------------------------------------------

ROWS = [
    {"row": "dm", "accuracy": {"mean": 0.877, "std": 0.0123}, "bytes": 640, "seconds": 1.25},
    {"row": "a|b", "accuracy": {"mean": 0.5, "std": 0.0}, "bytes": 2048, "note": "new"},
]
TABLE = Table("results", ROWS, units={"accuracy": "percent", "bytes": "bytes", "seconds": "seconds"}, notes=["twice"])


def test_markdown():
    assert markdown(TABLE).splitlines() == [
        "## results",
        "",
        "| row | accuracy (%) | bytes | seconds (s) | note |",
        "| --- | --- | --- | --- | --- |",
        "| dm | 87.7 ± 1.2 | 640 B | 1.2 | - |",
        "| a\\|b | 50.0 ± 0.0 | 2.0 KiB | - | new |",
        "",
        "twice",
    ]


def test_a_terminal_sees_every_cell():
    console = Console(file=io.StringIO(), width=200)
    console.print(rich_table(TABLE))
    printed = console.file.getvalue()
    assert [cell for row in TABLE.cells() for cell in row if cell not in printed] == []


def test_words_of_headings_stay_whole_in_sixty_columns():
    headings = ["network", "distilled (%)", "random real (%)", "images", "bytes", "bytes of the twin"]
    console = Console(file=io.StringIO(), width=60)
    console.print(rich_table(Table("t", [dict.fromkeys(headings, 1)])))
    printed = console.file.getvalue()
    assert [word for heading in headings for word in heading.split() if word not in printed] == []
    assert max(map(len, printed.splitlines())) <= 60


def test_markup_in_a_cell_is_text():
    console = Console(file=io.StringIO(), width=200)
    console.print(rich_table(Table("t", [{"[b]": "[red]x[/red]"}])))
    assert "[red]x[/red]" in console.file.getvalue()
    assert "[b]" in console.file.getvalue()


def test_json_rows_keep_their_numbers():
    assert TABLE.plain() == ROWS


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, None, "-"),
        (1234567, None, "1,234,567"),
        (0.000123456, None, "0.0001235"),
        (True, None, "True"),
        ([0.5, 0.25], "percent", "50.0 25.0"),
        ({"mean": 0.5, "std": 0.0}, "percent", "50.0 ± 0.0"),
        ({"mean": 0.5, "std": None}, "percent", "50.0"),
        (0.0123, "seconds", "0.012"),
        ({"value": 0.7372, "low": 0.62, "high": 0.8}, None, "0.74 [0.62, 0.80]"),
        ({"value": 0.7372, "low": 0.71, "high": 0.752}, None, "0.737 [0.710, 0.752]"),
        ({"value": 12.3, "low": -0.001, "high": 14}, None, "12.30 [0.00, 14.00]"),
        ({"value": 0.0, "low": -0.001, "high": 0.3}, None, "0.00 [0.00, 0.30]"),
        ({"value": 1.0, "low": 1.0, "high": 1.0}, None, "1.00 [1.00, 1.00]"),
        ({"value": 0.5, "low": 0.25, "high": 0.75}, "percent", "50.0 [25.0, 75.0]"),
        ("\x1b[2J", None, "\\x1b[2J"),
    ],
)
def test_cells(value: object, unit, shown: str):
    assert text(value, unit) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_bytes(count: int, shown: str):
    assert human_bytes(count) == shown


def test_printable_leaves_letters_of_all_scripts_alone():
    assert printable("naïve 猫 ± \n\x1b\u202e") == "naïve 猫 ± \\n\\x1b\\u202e"


def test_the_column_of_an_experience_is_headed_in_words_and_no_other_name_is_changed():
    row = {"row": "dm", "after_5": 0.5, "after_last": 0.5, "resnet_8": 0.5, "bytes": 3}
    table = Table("accuracy", [row], units={"after_5": "percent", "bytes": "bytes"})
    assert table.headings() == ["row", "after 5 (%)", "after_last", "resnet_8", "bytes"]
    assert table.columns() == [*row]
