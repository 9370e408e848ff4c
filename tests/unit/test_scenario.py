"""Scenarios: found, read, changed by --set, decoded once."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dd_apps import scenario
from dd_apps.cli.options import as_flag
from dd_core.config import canonical
from dd_core.errors import Option, UserError
from dd_core.runner import RunOptions

GOOD = """# What it shows
task = "distill"
data = "digits"
ipc = 2
networks = ["lenet"]

[method]
name = "dm"
steps = 7
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("name", sorted(scenario.shipped()))
def test_every_shipped_scenario_decodes_and_says_what_it_is(name: str):
    loaded = scenario.load(name)
    assert loaded.name == name.rpartition("/")[2]
    assert len(scenario.summary(loaded.path)) > 20
    assert canonical(loaded.plain())


def test_a_shipped_scenario_lies_in_the_folder_of_its_task():
    shipped = scenario.shipped()
    tasks = {"compare", "continual", "distill", "nas-rank", "nas-search", "study", "transfer"}
    assert {path.parent.name for path in shipped.values()} == tasks
    for path in shipped.values():
        assert scenario.read(path)["task"] == path.parent.name


def test_a_name_with_its_task_and_a_bare_name_are_one_scenario():
    assert scenario.find("continual/quickstart") == scenario.find("quickstart")
    assert scenario.load("distill/digits-dm").name == "digits-dm"
    with pytest.raises(UserError, match="unknown scenario 'distill/quickstart'"):
        scenario.find("distill/quickstart")


def test_a_bare_name_that_two_tasks_have_is_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for task in ("continual", "distill"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "tiny.toml").write_text(f'task = "{task}"\n')
    (tmp_path / "distill" / "alone.toml").write_text('task = "distill"\n')
    monkeypatch.setattr(scenario, "_folder", lambda: tmp_path)
    assert list(scenario.shipped()) == ["alone", "continual/tiny", "distill/tiny"]
    assert scenario.find("distill/tiny") == tmp_path / "distill" / "tiny.toml"
    assert scenario.find("distill/alone") == scenario.find("alone")
    with pytest.raises(UserError, match="scenario 'tiny': continual/tiny or distill/tiny\\?"):
        scenario.find("tiny")
    assert scenario.find("tiny", of="distill") == tmp_path / "distill" / "tiny.toml", "the verb says which task"
    with pytest.raises(UserError, match="scenario 'tiny': continual/tiny or distill/tiny"):
        scenario.find("tiny", of="study")
    assert scenario.find("alone", of="study") == scenario.find("alone")


def test_two_tasks_that_share_a_name_have_folders_of_their_own():
    wanted = ("compare/digits", "nas-rank/digits", "quickstart")
    names = [scenario.load(name).results_name for name in wanted]
    assert names == ["compare-digits", "nas-rank-digits", "quickstart"]
    assert scenario.load("digits", of="nas-rank").task == "nas-rank"


def test_the_quickstart_is_shipped():
    assert {"quickstart", "digits-dm", "digits-replay-ipc1"} <= set(scenario.shipped())


def test_a_further_method_of_a_scenario_can_be_set():
    changes = ["others.dataset-distillation.steps=3", "others.dataset-distillation.recipe.network=lenet"]
    others = scenario.load("digits-replay-ipc1", overrides=changes).plain()["others"]
    assert (others["dataset-distillation"]["steps"], others["dataset-distillation"]["recipe"]["network"]) == (
        3,
        "lenet",
    )
    with pytest.raises(UserError) as caught:
        scenario.load("digits-replay-ipc1", overrides=["others.dataset-distillation.stepps=3"])
    mistake = "others.dataset-distillation.stepps: unknown key; did you mean 'steps'?"
    assert str(caught.value) == f"digits-replay-ipc1.toml: {mistake}"


def test_a_file(mine: Path):
    loaded = scenario.load(str(mine))
    assert (loaded.name, loaded.task) == ("mine", "distill")
    assert loaded.plain()["method"] == {"name": "dm", "steps": 7}
    assert loaded.plain()["networks"] == ["lenet"]
    assert scenario.summary(mine) == "What it shows"


def test_set_is_merged_before_decoding(mine: Path):
    recipe = ["method.recipe.network=lenet", "method.recipe.epochs = 5"]
    changes = ["method.steps=3", "method.name=dm", 'networks=["lenet", "alexcifarnet"]', *recipe]
    values = scenario.load(str(mine), overrides=changes).plain()
    assert values["method"] == {"name": "dm", "steps": 3, "recipe": {"network": "lenet", "epochs": 5}}
    assert values["networks"] == ["lenet", "alexcifarnet"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=3", 3),
        ("a=3.5", 3.5),
        ("a=1e-3", 1e-3),
        ("a=true", True),
        ("a=word", "word"),
        ("a=folder:/x y=z", "folder:/x y=z"),
        ("a='3'", "3"),
        ("a=[1, 2]", [1, 2]),
        ("a={b = 1}", {"b": 1}),
        ("a=", ""),
    ],
)
def test_values_are_toml_and_words_need_no_quotes(text: str, value: object):
    table = {"kept": 1}
    scenario.assign(table, text)
    assert table == {"kept": 1, "a": value}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("ipc", "--set ipc: expected key=value"),
        ("=3", "--set =3: expected key=value"),
        ("method..steps=3", "expected key=value"),
        ("ipc.x=3", "ipc is 2 and has no keys"),
        ("method.stepz=3", "mine.toml: method.stepz: unknown key; did you mean 'steps'?"),
        ("ipz=3", "mine.toml: ipz: unknown key; did you mean 'ipc'?"),
        ("ipc=many", "mine.toml: ipc: input should be a valid integer (given: 'many')"),
        ("images=3", "mine.toml: give either ipc"),
        ("method.name=dn", "unknown method 'dn'; did you mean 'dm'?"),
        ("protocol=plain", "unknown protocol 'plain'; did you mean 'plain-300'?"),
        ('networks=["lenat"]', "unknown network 'lenat'; did you mean 'lenet'?"),
        ("task=distil", "mine.toml: task: unknown task 'distil'; did you mean 'distill'?"),
        ("task=3", "mine.toml: task: required; one of compare, continual"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_spelling(mine: Path, override: str, line: str):
    with pytest.raises(UserError) as caught:
        scenario.load(str(mine), overrides=[override])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"task = \n", "line 1"),
        (b'task = "distill"\n[method\n', "line 2"),
        (b"\xff\xfe", "not valid TOML"),
        (b"", "task: required"),
        (b'task = "distill"\ndata = "digits"\nipc = 1\n', "method: required, but not given"),
        (b'task = "distill"\ndata = "digits"\nipc = 1\nmethod = "dm"\n', "method: input should be"),
        (b'task = "distill"\ndata = "digits"\nipc = 1\n[method]\nsteps = 1\n', "method.name: required"),
    ],
)
def test_broken_files_name_file_and_place(tmp_path: Path, content: bytes, line: str):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.toml: ") as caught:
        scenario.load(str(path))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_file(mine: Path):
    """Editors of Windows write one."""
    before = scenario.load(str(mine))
    mine.write_bytes(b"\xef\xbb\xbf# what it is\n" + mine.read_bytes())
    assert scenario.load(str(mine)) == before
    assert scenario.summary(mine) == "what it is"


def test_names_that_are_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="unknown scenario 'quickstrat'; did you mean 'quickstart'"):
        scenario.load("quickstrat")
    with pytest.raises(UserError, match=r"none\.toml: No such file"):
        scenario.load(str(tmp_path / "none.toml"))


DISTIL = 'task = "distill"\ndata = "digits"\nmethod = {name = "dm"}\n'
STUDY = 'task = "study"\ndata = "digits"\nclasses = [2, 5, 10]\nlabel_noise = [0.0, 0.125]\nmethod = {name = "dm"}\n'
CONTINUAL = 'task = "continual"\ndata = "digits"\nrows = ["distilled", "k-means", "joint"]\n'


@pytest.mark.parametrize(
    ("content", "changes", "title"),
    [
        (DISTIL, ["ipc=1"], "dm on digits, 1 image a class"),
        (DISTIL, ["ipc=10", "method.name=random", "image_size=28"], "random on digits at 28 px, 10 images a class"),
        (DISTIL, ["images=25", "data=folder:here"], "dm on folder:here, 25 images in all"),
        (
            DISTIL,
            ["ipc=2", "method.name=dataset-distillation", "method.start=random-pretrained", "pretrain_on=mnist"],
            "dataset-distillation on digits, 2 images a class, networks pre-trained on mnist",
        ),
        (STUDY, [], "dm on digits, 1 image a class: 2, 5 and 10 classes; 0 and 12.5 % of labels wrong"),
        (STUDY, ["classes=[4]", "label_noise=[0.2]", "ipc=3"], "dm on digits, 3 images a class: 4 classes; 20 % of"),
        (STUDY, ["classes=[]", "image_size=16"], "dm on digits at 16 px, 1 image a class: all classes; 0 and 12.5 %"),
        (
            CONTINUAL,
            [],
            "class-incremental learning on digits: 5 experiences, memories of 1 image a class, dm, k-means, joint",
        ),
        (
            CONTINUAL,
            ["images_per_class=4", "experiences=2", "method.name=mtt", 'rows=["real", "distilled"]', "image_size=16"],
            "class-incremental learning on digits at 16 px: 2 experiences, memories of 4 images a class, real, mtt",
        ),
    ],
)
def test_a_run_is_titled_by_its_values(tmp_path: Path, content: str, changes: list[str], title: str):
    (tmp_path / "mine.toml").write_text(f"# 50 classes of something else\n{content}")
    loaded = scenario.load(str(tmp_path / "mine.toml"), overrides=changes)
    assert loaded.values.title.startswith(title)
    assert loaded.origin.startswith("scenario mine")
    assert shlex.split(loaded.origin)[2:] == [word for change in changes for word in ("--set", change)]


@pytest.mark.parametrize("name", sorted(scenario.shipped()))
def test_every_shipped_scenario_has_a_title_of_one_line(name: str):
    title = scenario.load(name).values.title
    assert title.isprintable()
    assert len(title) < 200


def test_a_file_without_a_comment_has_no_summary(tmp_path: Path):
    (tmp_path / "mine.toml").write_text('task = "distill"\n')
    assert scenario.summary(tmp_path / "mine.toml") == ""


# --- options in errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (Option("image_size", 6), "such as --set image_size=6"),
        (Option("skip_corrupt", True), "such as --set skip_corrupt=true"),
        (Option("seed"), "such as seed"),
        (Option("workers", 1), "such as --workers 1"),
        (Option("fresh", True), "such as --fresh"),
    ],
)
def test_an_option_that_is_a_key_of_the_scenario_is_spelled_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: Option, line: str
):
    def refuse(*_: object) -> None:
        raise UserError(f"such as {option}")

    loaded = scenario.load("quickstart")  # which has a key `workers`, but an option of the run says it better
    monkeypatch.setattr(type(loaded.values), "run", refuse)
    with pytest.raises(UserError) as caught:
        scenario.run(loaded, folder=tmp_path, options=RunOptions())
    assert caught.value.spelled(as_flag) == line


def test_how_many_jobs_run_at_the_same_time_is_no_part_of_what_a_scenario_is():
    few, many = (scenario.load("quickstart", overrides=[f"workers={count}"]).plain() for count in (1, 5))
    assert (few["workers"], many["workers"]) == (1, 5)
    assert scenario.identity_of(few) == scenario.identity_of(many) == {k: v for k, v in few.items() if k != "workers"}
