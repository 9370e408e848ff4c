"""`distill`, `evaluate`, `run` and `doctor` on small data, in this process."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from PIL import Image

from dd_apps import scenario
from dd_apps.cli.results import WORK
from dd_core import store
from dd_core.errors import UserError
from dd_core.system.parallel import Workers
from dd_core.testing import blobs

QUICK = ["--set", "recipe.network=convnet-1-w8", "--set", "recipe.epochs=2"]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(call) -> Callable[..., str]:
    """Run a command line that the user got wrong: its one line on stderr, progress messages left out."""

    def run(*words: object, code: int = 2) -> str:
        found, out, err = call(*words)
        assert (found, out) == (code, ""), err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "Traceback" not in err
        return lines[0]

    return run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one/` and `two/`: class folders with the same classes and other images; `three/`: other classes."""
    root = tmp_path_factory.mktemp("images")
    for name, first, classes in (("one", 0, 2), ("two", 10, 2), ("three", 0, 3)):
        source = blobs(classes=classes, per_class=20)
        for index in range(first * classes, (first + 10) * classes):
            path = root / name / f"class {int(source.labels[index])}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.images[index, 0].numpy()).save(path)
    return root


# --- distill -------------------------------------------------------------------------------------------------


def test_distill_says_what_it_made_and_what_it_cost(call_json):
    found = call_json("distill", "random", "--data", "digits", "--ipc", 2, "--out", "new/a.safetensors")
    assert found["path"] == "new/a.safetensors"
    assert found["sha256"] == store.file_sha256(Path("new/a.safetensors"))
    assert found["seconds"] > 0
    assert found["peak_memory_bytes"] > 1 << 20
    ds = store.read_set(Path("new/a.safetensors"))
    assert len(ds) == found["images"] == 20
    assert ds.manifest.provenance is not None
    assert ds.manifest.provenance.method == "random"


def test_a_finished_run_is_found_and_another_one_is_refused(call, call_json, refused):
    command = ["distill", "random", "--data", "digits", "--images", 15, "--out", "a.safetensors"]
    first = call_json(*command)
    code, out, err = call(*command, "--json")
    assert code == 0
    assert json.loads(out)["sha256"] == first["sha256"]
    assert "complete already" in err
    line = refused(*command, "--seed", 1)
    assert "seed: 0 -> 1" in line
    assert store.file_sha256(Path("a.safetensors")) == first["sha256"]
    assert call_json(*command, "--seed", 1, "--fresh")["sha256"] != first["sha256"]


def test_settings_reach_the_method(call_json):
    call_json(
        "distill", "dm", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", "--set", "method.steps=1", *QUICK
    )
    made = store.read_set(Path("a.safetensors")).manifest.provenance
    assert made is not None
    assert made.config["steps"] == 1
    assert made.config["recipe"]["network"] == "convnet-1-w8"


def test_a_time_limit_stops_and_the_printed_command_goes_on(call_json, refused):
    command = ["distill", "dm", "--data", "digits", "--ipc", 1, "--set", "steps=3", *QUICK]
    whole = call_json(*command, "--out", "whole.safetensors")
    line = refused(*command, "--out", "b c.safetensors", "--time-limit", 0, "--fresh", code=4)
    assert "step 1 of 3" in line
    assert "to go on: dd-apps distill dm --data digits" in line
    assert "--out 'b c.safetensors'" in line
    assert "--fresh" not in line
    rest = call_json(*command, "--out", "b c.safetensors")
    assert rest["sha256"] == whole["sha256"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "give either --ipc"),
        (["--ipc", "1", "--images", "10"], "give either --ipc"),
        (["--images", "9"], "9 images for 10 classes"),
        (["--ipc", "1", "--set", "stps=3"], "method.stps: unknown key"),
        (["--ipc", "1", "--set", "steps"], "--set steps: expected key=value"),
        (["--ipc", "1", "--set", "name=dm"], "the method is 'random', given before"),
        (["--ipc", "1", "--parallel", "rya"], "unknown engine for --parallel 'rya'; did you mean 'ray'?"),
        (["--ipc", "1", "--device", "gpu"], "unknown device 'gpu'"),
        (["--ipc", "1", "--data", "digit"], "unknown data set 'digit'; did you mean 'digits'?"),
        (["--ipc", "1", "--data", "folder:none"], "folder:none: there is no such folder"),
        (["--ipc", "1", "--out", "a"], "a distilled set is a .safetensors file"),
        (["--ipc", "1", "--out", "folder.safetensors"], "is a folder"),
    ],
)
def test_mistakes_in_distill(words: list[str], line: str, refused):
    Path("folder.safetensors").mkdir()
    given = ["distill", "random", *words]
    for option, value in (("--data", "digits"), ("--out", "a.safetensors")):
        given += [] if option in words else [option, value]
    assert line.lower() in refused(*given).lower()
    assert not Path("a.safetensors").exists()


def test_an_unknown_method(refused):
    line = refused("distill", "herdig", "--data", "digits", "--ipc", 1, "--out", "a.safetensors")
    assert "unknown method 'herdig'; did you mean 'herding'?" in line


def test_the_next_command_can_be_pasted_into_a_shell(folders: Path, call):
    data = f"folder:{folders / 'one'}"
    words = ["--ipc", 1, "--out", "it's a.safetensors", "--skip-corrupt"]
    out = call("distill", "random", "--data", data, *words, *QUICK)[1]
    (line,) = [line for line in out.splitlines() if line.startswith("next")]
    inspect, evaluate = (shlex.split(part) for part in line.removeprefix("next").split(";"))
    assert call(*inspect[1:])[0] == 0
    assert evaluate == ["dd-apps", "evaluate", "it's a.safetensors", "--data", data, "--skip-corrupt"]
    assert call(*evaluate[1:], "--nets", 1)[0] == 0


# --- evaluate ------------------------------------------------------------------------------------------------


def test_evaluate(call, call_json):
    call_json("distill", "average", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    found = call_json("evaluate", "a.safetensors", "--nets", 2)
    for score in (found["accuracy"], found["random_real"]):
        assert len(score["per_network"]) == 2
        assert 0 <= min(score["per_network"]) <= score["mean"] <= max(score["per_network"]) <= 1
        assert score["std"] == pytest.approx(abs(score["per_network"][0] - score["per_network"][1]) / 2**0.5)
    assert (found["protocol"], found["network"]) == ("recipe", "convnet-1-w8")
    assert "digits" in found["data"]
    assert found["hardware"]["torch"]
    assert found["warnings"] == []
    code, out, _ = call("evaluate", "a.safetensors", "--nets", 2)
    assert code == 0
    assert f"{100 * found['accuracy']['mean']:.1f} ± {100 * found['accuracy']['std']:.1f}" in out
    assert f"{100 * found['random_real']['mean']:.1f} ± {100 * found['random_real']['std']:.1f}" in out
    word = {"ahead": "better than", "no difference": "no difference to", "behind": "worse than"}
    assert f"{word[found['verdict']['word']]} as many random real images" in out


def test_evaluate_calls_a_random_set_no_better_than_random_ones(call, call_json):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    found = call_json("evaluate", "a.safetensors", "--nets", 5)
    pairs = zip(found["accuracy"]["per_network"], found["random_real"]["per_network"], strict=True)
    apart = [ours - twin for ours, twin in pairs]
    t = statistics.fmean(apart) / (statistics.stdev(apart) * (1 + 1 / 5) ** 0.5)
    assert abs(t) < 2.776, "the table of Student's t at 5 % with 4 degrees of freedom"
    assert found["verdict"]["word"] == "no difference"
    assert found["verdict"]["difference"] == pytest.approx(statistics.fmean(apart))
    out = " ".join(call("evaluate", "a.safetensors", "--nets", 5)[1].split())
    assert "no difference to as many random real images" in out
    assert "Student's t asks whether the set could be one more random draw" in out


def test_evaluate_on_one_network_has_neither_a_verdict_nor_a_deviation(call, call_json):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    found = call_json("evaluate", "a.safetensors", "--nets", 1)
    for score in (found["accuracy"], found["random_real"]):
        assert score == {"mean": score["per_network"][0], "std": None, "per_network": score["per_network"]}
    assert (found["verdict"]["word"], found["verdict"]["p"]) == (None, None)
    out = call("evaluate", "a.safetensors", "--nets", 1)[1]
    assert "no verdict: one network does not show how large the noise is" in out
    assert "±" not in out
    assert "deviation" not in out
    assert "better" not in out


def test_cross_architecture(call, call_json):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    words = ["evaluate", "a.safetensors", "--nets", 1, "--network", "lenet", "--network", "convnet-1-w8-batchnorm"]
    found = call_json(*words)
    assert [one["network"] for one in found["networks"]] == ["lenet", "convnet-1-w8-batchnorm"]
    assert found["network"] == "lenet"
    assert found["accuracy"] == found["networks"][0]["accuracy"]
    out = call(*words)[1]
    assert "lenet" in out
    assert "convnet-1-w8-batchnorm" in out


def test_a_protocol_that_chooses_says_what_it_chose(call, call_json):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    words = ["evaluate", "a.safetensors", "--nets", 1, "--protocol", "wang-grid"]
    chosen = call_json(*words)["chosen"]
    assert chosen.keys() == {"accuracy", "random_real"}
    ours = chosen["accuracy"]
    code, out, err = call(*words)
    assert code == 0
    assert "choosing from 36 settings on validation images" in err
    shown = f"distilled learning_rate {ours['learning_rate']}, epochs {ours['epochs']} ("
    assert f"chosen on validation images: {shown}{100 * ours['validation']:.1f} % there)" in " ".join(out.split())


def test_neighbours_are_scored_without_a_network(call, call_json):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    words = ["evaluate", "a.safetensors", "--nets", 3, "--protocol", "knn"]
    found = call_json(*words)
    assert found["network"] == "k-nn"
    assert (len(found["accuracy"]["per_network"]), len(found["random_real"]["per_network"])) == (1, 3)
    code, out, err = call(*words)
    assert code == 0
    assert "3 draws of the twin" in " ".join(out.split())
    assert "networks" not in out + err


def test_evaluate_goes_on_from_the_scores_that_are_kept_and_fresh_starts_over(call, call_json):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    first = call_json("evaluate", "a.safetensors", "--nets", 2)
    *_, record = Path("cache/scores").iterdir()
    record.unlink()
    code, out, err = call("evaluate", "a.safetensors", "--nets", 2, "--json")
    assert (code, json.loads(out)) == (0, first)
    assert "convnet-1-w8 on the set and on real images: 3 of 4 are kept from an earlier call" in err
    assert "kept from an earlier call" in call("evaluate", "a.safetensors", "--nets", 2)[2]
    assert "kept from an earlier call" not in call("evaluate", "a.safetensors", "--nets", 2, "--fresh")[2]


def test_a_set_from_a_folder_needs_its_folder(folders: Path, call, call_json, refused):
    data = f"folder:{folders / 'one'}"
    call_json("distill", "random", "--data", data, "--ipc", 1, "--out", "a.safetensors", *QUICK)
    assert "was made from a folder; name the real images: --data folder:PATH" in refused("evaluate", "a.safetensors")
    found = call_json("evaluate", "a.safetensors", "--nets", 1, "--data", data)
    assert found["warnings"] == []
    code, out, err = call("evaluate", "a.safetensors", "--nets", 1, "--data", f"folder:{folders / 'two'}", "--json")
    assert code == 0
    assert "distilled from other training images" in err
    assert json.loads(out)["warnings"]
    line = refused("evaluate", "a.safetensors", "--data", f"folder:{folders / 'three'}")
    assert "classes" in line


def test_the_sets_own_image_size_is_used(folders: Path, call_json):
    data = f"folder:{folders / 'one'}"
    words = ["--ipc", 1, "--out", "a.safetensors", "--image-size", 12]
    call_json("distill", "random", "--data", data, *words, *QUICK)
    assert store.read_set(Path("a.safetensors")).images.shape == (2, 1, 12, 12)
    assert call_json("evaluate", "a.safetensors", "--nets", 1, "--data", data)["warnings"] == []


START = ["--set", "steps=2", "--set", "epochs=2", "--set", "batch_real=16", "--set", "recipe.network=convnet-1-w4"]
PRETRAINED = [*START, "--set", "start=random-pretrained", "--set", "pool=2", "--set", "pretraining.epochs=1"]


def test_a_set_for_one_network_says_so_and_is_scored_elsewhere_on_request_only(call, call_json, refused):
    words = ["--data", "digits", "--ipc", 1, "--out", "a.safetensors"]
    call_json("distill", "dataset-distillation", *words, *START, "--set", "start=fixed")
    code, out, err = call("evaluate", "a.safetensors", "--nets", 2)
    assert code == 0
    assert "training one particular network on the set, 2 on random real images" in err
    assert "the set is for one network and has one score" in " ".join(out.split())
    assert "this set is for one network" in refused("evaluate", "a.safetensors", "--network", "lenet")
    assert "unknown start 'xavir'; did you mean 'xavier'?" in refused("evaluate", "a.safetensors", "--start", "xavir")
    found = call_json("evaluate", "a.safetensors", "--nets", 2, "--start", "xavier")
    (warning,) = found["warnings"]
    assert warning.startswith(
        "this set is for one particular network, and is scored on a convnet-1-w4 that starts from"
    )
    assert len(found["accuracy"]["per_network"]) == 2


def test_networks_pretrained_on_other_images_are_adapted(folders: Path, call, call_json, refused):
    data, other = (f"folder:{folders / name}" for name in ("one", "two"))
    words = ["distill", "dataset-distillation", "--data", data, "--ipc", 1, "--pretrain-on", other, *PRETRAINED]
    code, out, err = call(*words, "--out", "a.safetensors")
    assert code == 0
    assert "making 2 networks to start from (0 of 2 are in the cache); kept for later runs" in err
    (line,) = [line for line in out.splitlines() if line.startswith("next")]
    evaluate = shlex.split(line.split(";")[1])
    assert evaluate[1:] == ["evaluate", "a.safetensors", "--data", data, "--pretrain-on", other]
    code, out, err = call(*evaluate[1:], "--nets", 2)
    assert code == 0
    assert "pre-training networks that are not in the cache, then training 2 on the set" in err
    assert "before it sees any image, convnet-1-w4 has" in " ".join(out.split())
    line = refused("evaluate", "a.safetensors", "--data", data, "--pretrain-on", data)
    assert "the set is for networks pre-trained on 'folder'" in line
    line = refused(*words, "--set", "start=fixed", "--out", "b.safetensors")
    assert "start 'fixed' pre-trains no networks" in line
    line = refused("distill", "random", "--data", data, "--ipc", 1, "--pretrain-on", other, "--out", "b.safetensors")
    assert "method 'random' pre-trains no networks" in line


def test_a_scenario_can_adapt(folders: Path, call_json, refused):
    Path("adapt.toml").write_text(
        f"""task = "distill"
data = "folder:{folders / "one"}"
pretrain_on = "folder:{folders / "two"}"
ipc = 1
nets = 1
[method]
name = "dataset-distillation"
start = "fixed-pretrained"
steps = 2
epochs = 2
pretraining = {{ epochs = 1 }}
recipe = {{ network = "convnet-1-w4" }}
"""
    )
    figures = call_json("run", "adapt.toml", "--out", "out")["figures"]
    (found,) = store.read_json(Path(figures))["evaluations"]
    assert found["start"] == found["made_for"]
    assert found["start"].startswith("sha256:")
    assert found["before"]["mean"] >= 0
    figures = call_json("run", "adapt.toml", "--set", "start=xavier", "--out", "out2")["figures"]
    (found,) = store.read_json(Path(figures))["evaluations"]
    assert (found["start"], found["as_meant"]) == ("xavier", False)
    line = refused("run", "adapt.toml", "--set", 'networks=["lenet"]', "--out", "out3")
    assert "networks: the set is for one convnet-1-w4 only; leave networks out" in line


def test_an_attack_is_said(call, call_json, refused):
    words = ["distill", "dataset-distillation", "--data", "digits", "--ipc", 1, *START, "--out", "a.safetensors"]
    call_json(*words, "--set", 'attack=["1", "0"]')
    assert "'1' is to be taken for '0'" in " ".join(call("inspect", "a.safetensors")[1].split())
    assert "of '1' are taken for '0'" in " ".join(call("evaluate", "a.safetensors", "--nets", 1)[1].split())
    line = refused(*words[:-1], "b.safetensors", "--set", 'attack=["1", "x"]')
    assert "unknown class 'x'" in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--protocol", "recip"], "unknown protocol 'recip'; did you mean 'recipe'?"),
        (["--protocol", "knn", "--network", "lenet"], "protocol 'knn' trains no network, and 'lenet' is given"),
        (["--protocol", "knn", "--start", "xavier"], "protocol 'knn' trains no network; leave out the initial weights"),
        (["--pretrain-on", "digits"], "no network is pre-trained for this; leave out the images of 'digits'"),
        (["--network", "lenett"], "unknown network 'lenett'; did you mean 'lenet'?"),
        (["--data", "usp"], "unknown data set 'usp'; did you mean 'usps'?"),
        (["--nets", "0"], "--nets"),
    ],
)
def test_mistakes_in_evaluate(words: list[str], line: str, call_json, refused):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)
    assert line in refused("evaluate", "a.safetensors", *words)


# --- run -----------------------------------------------------------------------------------------------------

SCENARIO = """# A small one
task = "distill"
data = "digits"
ipc = 1
nets = 1
networks = ["convnet-1-w8", "lenet"]

[method]
name = "average"

[method.recipe]
network = "convnet-1-w8"
epochs = 1
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.toml").write_text(SCENARIO)
    return "mine.toml"


def test_run_leaves_a_folder_of_results(mine: str, call, call_json):
    found = call_json("run", mine)
    folder = Path("runs/mine")
    (rows,) = found["results"].values()
    assert [row["network"] for row in rows] == ["convnet-1-w8", "lenet"]
    assert all(0 <= row["distilled"]["mean"] <= 1 for row in rows)
    assert found["seconds"] > 0
    assert Path(found["report"]) == folder / "report.md"
    report = (folder / "report.md").read_text()
    assert report.startswith("# average on digits, 1 image a class\n\nscenario mine\n")
    assert all(word in report for word in ("| lenet |", "distilled.png", "torch"))
    assert "A small one" not in report, "what the file says of itself"
    assert "±" not in report, "one network"
    kept = store.read_json(folder / "results.json")
    assert kept["results"] == found["results"]
    assert kept["scenario"]["method"]["name"] == "average"
    assert kept["hardware"]["torch"]
    assert len(kept["evaluations"][0]["accuracy"]["per_network"]) == 1
    assert kept["evaluations"][0]["verdict"]["word"] is None
    assert len(store.read_set(folder / "distilled.safetensors")) == 10
    with Image.open(folder / "distilled.png") as image:
        assert image.height == 5 * 66 + 2  # ten classes of one image, two beside each other
    page = Path(found["page"]).read_text()
    assert all(word in page for word in ("average on digits, 1 image a class", "<td>lenet</td>", "data:image/png"))
    heading, *lines = (folder / "accuracy-on-test-images.csv").read_text().splitlines()
    assert (heading.split(",")[:2], len(lines)) == (["network", "distilled (%)"], 2)
    assert r"\begin{tabular}{lrrrrr}" in (folder / "accuracy-on-test-images.tex").read_text()
    out = call("run", mine)[1]
    assert all(word in out for word in ("lenet", str(folder / "report.html"), "distilled.png"))


def test_a_report_is_headed_by_the_values_of_the_run(mine: str, call_json):
    call_json("run", mine, "--set", "ipc=2", "--set", "method.name=random", "--set", "networks=[]")
    heading, _, origin, *_ = Path("runs/mine/report.md").read_text().splitlines()
    assert heading == "# random on digits, 2 images a class"
    assert origin == "scenario mine --set ipc=2 --set method.name=random --set 'networks=[]'"


def test_two_scenarios_do_not_share_a_folder(mine: str, call_json, refused):
    call_json("run", mine, "--out", "here")
    before = Path("here/results.json").read_bytes()
    line = refused("run", mine, "--out", "here", "--set", "seed=3", "--set", "method.name=random")
    assert "here: holds results of other settings (method.name: 'average' -> 'random'; seed: 0 -> 3)" in line
    assert Path("here/results.json").read_bytes() == before
    call_json("run", mine, "--out", "here", "--set", "seed=3", "--set", "method.name=random", "--fresh")
    assert store.read_json(Path("here/scenario.json"))["seed"] == 3
    assert store.read_set(Path("here/distilled.safetensors")).manifest.provenance.method == "random"


def test_a_folder_with_other_files_is_left_alone(mine: str, refused):
    Path("here").mkdir()
    Path("here/report.md").write_text("my own")
    for words in ([], ["--fresh"]):
        line = refused("run", mine, "--out", "here", *words)
        assert "here: holds other files (report.md); give an empty folder as --out" in line
    assert Path("here/report.md").read_text() == "my own"
    assert "Not a directory" in refused("run", mine, "--out", "mine.toml/x")


def test_a_folder_whose_scenario_was_killed_or_damaged_is_no_others(mine: str, refused, call_json):
    Path("here").mkdir()
    Path("here/.scenario.json.1.tmp").write_text("{")
    call_json("run", mine, "--out", "here")
    assert not Path("here/.scenario.json.1.tmp").exists()
    job = Path("here") / "work" / "order-0"
    left, own = job / ".job-12.json.77.tmp", job / ".mine.tmp"
    left.parent.mkdir(parents=True, exist_ok=True)
    for path in (left, own):
        path.write_text("{")
    call_json("run", mine, "--out", "here")
    assert not left.exists()
    assert own.exists(), "no writer of ours names its files so"
    for text, reason in (("[]", "its scenario.json is no JSON object; use another --out, or --fresh"), ("{", "JSON")):
        Path("here/scenario.json").write_text(text)
        assert reason in refused("run", mine, "--out", "here")
        call_json("run", mine, "--out", "here", "--fresh")


def test_one_run_at_a_time_in_a_folder(mine: str, refused):
    Path("here").mkdir()
    with FileLock("here/lock"):
        assert "another run is at work here" in refused("run", mine, "--out", "here")


def test_mistakes_in_a_scenario(mine: str, refused):
    line = refused("run", mine, "--set", "method.recip.epochs=1")
    assert line == "error: mine.toml: method.recip: unknown key; did you mean 'recipe'?"
    assert refused("run", mine, "--set", "net=1") == "error: mine.toml: net: unknown key; did you mean 'nets'?"
    assert "did you mean 'quickstart'" in refused("run", "quickstrt")
    assert not Path("runs").exists()


def test_running_out_of_memory_is_no_bug(call_json, refused, monkeypatch: pytest.MonkeyPatch):
    call_json("distill", "random", "--data", "digits", "--ipc", 1, "--out", "a.safetensors", *QUICK)

    def too_large(path: Path) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(store, "read_set", too_large)
    assert "out of memory" in refused("evaluate", "a.safetensors", code=4)


def test_a_finished_run_is_shown_again_and_not_computed_again(mine: str, call, call_json):
    first = call_json("run", mine)
    files = {path: path.stat().st_mtime_ns for path in Path("runs/mine").iterdir()}
    assert len([*(Path("runs") / "mine" / WORK / "scores").iterdir()]) == 4, "two kinds of network, each with a twin"
    code, out, err = call("run", mine, "--json")
    assert (code, json.loads(out)) == (0, first)
    assert "runs/mine: complete already; --fresh runs it again" in err
    shown = call("run", mine)[1]
    for path, changed in files.items():
        assert path.name in ("scenario.json", "lock") or path.stat().st_mtime_ns == changed
    Path("runs/mine/distilled.png").unlink()
    again = call_json("run", mine)
    assert again["results"] == first["results"]
    results = Path("runs/mine/results.json")
    assert results.stat().st_mtime_ns != files[results], "what is incomplete is computed"
    table, _, _ = shown.partition("report")
    assert call("run", mine)[1].startswith(table), "stored tables look as fresh ones do"


@pytest.mark.skipif((os.cpu_count() or 2) < 2, reason="two threads need two cores")
def test_other_threads_are_another_run(mine: str, call_json):
    first = call_json("run", mine)
    second = call_json("run", mine, "--threads", 2)
    assert (first["hardware"]["threads"], second["hardware"]["threads"]) == (1, 2), "the first one was shown again"


def test_a_fresh_run_that_fails_leaves_nothing_of_the_old_one(mine: str, call_json, refused):
    call_json("run", mine)
    Path("runs/mine/notes.png").write_text("my own")
    refused("run", mine, "--fresh", "--set", "data=nothing")
    assert {path.name for path in Path("runs/mine").iterdir()} == {"lock", "scenario.json", "notes.png"}


@pytest.mark.skipif((os.cpu_count() or 2) < 2, reason="two threads need two cores")
def test_threads_leave_the_scenarios_workers_alone(call, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def note(loaded: scenario.Scenario, *, folder: Path, options: Any) -> None:
        asked.append(options.workers)
        raise UserError("seen")

    monkeypatch.setattr(scenario, "run", note)
    for words in (["--threads", 2], ["--parallel", "ray"], ["--workers", 5]):
        call("run", "quickstart", "--set", "workers=3", *words)
    assert asked == [
        Workers(count=3, threads=2),
        Workers(count=3, engine="ray"),
        Workers(count=5),
    ]


def test_a_folder_goes_on_with_any_number_of_workers(call, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def note(loaded: scenario.Scenario, *, folder: Path, options: Any) -> None:
        asked.append(loaded.workers or 0)
        folder.mkdir(exist_ok=True)
        (folder / "half done").touch()
        raise UserError("seen")

    monkeypatch.setattr(scenario, "run", note)
    for count in (3, 1):
        call("run", "quickstart", "--set", f"workers={count}")
    assert asked == [3, 1]
    assert store.read_json(Path("runs/quickstart/scenario.json"))["workers"] == 1
    assert "orders: " in call("run", "quickstart", "--set", "orders=9")[2]
    assert asked == [3, 1]


def test_a_run_that_fails_before_it_has_anything_leaves_no_folder(mine: str, tmp_path: Path, refused):
    refused("run", mine, "--set", "data=nothing")
    assert not Path("runs/mine").exists()
    Path("given").mkdir()
    refused("run", mine, "--set", "data=nothing", "--out", "given")
    assert Path("given").is_dir(), "a folder of the user's stays"


@pytest.mark.parametrize("task", ["distill", "continual"])
def test_a_scenario_can_leave_out_corrupt_images(task: str, folders: Path, tmp_path: Path, call_json, refused):
    shutil.copytree(folders / "one", tmp_path / "with one bad")
    (tmp_path / "with one bad" / "class 0" / "bad.png").write_bytes(b"no image")
    lines = [f'task = "{task}"', f'data = "folder:{tmp_path}/with one bad"', '[method]\nname = "random"']
    if task == "distill":
        lines[2:2] = ["ipc = 1", "nets = 1"]
    else:
        lines[2:2] = ["experiences = 2", "orders = 1", 'network = "convnet-1-w4"', 'rows = ["distilled", "real"]']
        lines += ["[retraining]\nepochs = 1", "[replay]\nepochs = 1"]
    Path("bad.toml").write_text("\n".join(lines))
    quick = [] if task == "continual" else [word.replace("recipe", "method.recipe") for word in QUICK]
    line = refused("run", "bad.toml", "--workers", 1, *quick)
    assert line.endswith("leave it out with --set skip_corrupt=true")
    found = call_json("run", "bad.toml", "--workers", 1, "--fresh", "--set", "skip_corrupt=true", *quick)
    assert found["results"]


def test_the_memory_of_a_continual_run_is_a_distilled_set(call_json):
    settings = ["orders=1", "experiences=2", 'rows=["distilled", "real"]', "method.steps=1", "network=convnet-1-w4"]
    settings += ["retraining.epochs=3", "replay.epochs=1", "method.recipe.network=convnet-1-w4"]
    found = call_json("run", "quickstart", "--workers", 1, *(word for one in settings for word in ("--set", one)))
    plots = [f"{table}-{kind}.png" for table in ("retraining", "replay") for kind in ("matrices", "curves", "bytes")]
    assert [Path(picture).name for picture in found["pictures"]] == [*plots, "dm.png", "real.png"]
    assert [path.name for path in Path("runs/quickstart").glob("*.safetensors")] == ["dm.safetensors"]
    scored = call_json("evaluate", "runs/quickstart/dm.safetensors", "--nets", 1)
    assert (scored["network"], scored["warnings"], scored["images"]) == ("convnet-1-w4", [], 40)
    manifest = store.read_set(Path("runs/quickstart/dm.safetensors")).manifest
    assert (manifest.recipe.epochs, manifest.recipe.schedule) == (3, "constant")
    made = manifest.provenance
    assert made is not None
    assert (made.source, made.method, made.seed, made.source_images) == ("digits", "dm", 0, 1438)
    assert made.config["steps"] == 1
    assert sorted(label for classes in made.config["experiences"] for label in classes) == list(range(10))


# --- doctor --------------------------------------------------------------------------------------------------


def test_doctor(call, call_json):
    found = call_json("doctor")
    assert found["ok"] is True
    names = {check["name"] for check in found["checks"]}
    assert {"python", "torch", "cpu", "gpu", "memory", "cache", "disk", "avalanche", "timm", "ray"} <= names
    code, out, _ = call("doctor")
    assert code == 0
    assert [check for check in found["checks"] if check["name"] not in out] == []


def test_doctor_finds_a_cache_that_cannot_be_written(tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "file"))
    code, out, _ = call("doctor", "--json")
    assert code == 4
    (cache,) = [check for check in json.loads(out)["checks"] if check["name"] == "cache"]
    assert cache["ok"] is False
    assert "DD_APPS_CACHE" in cache["advice"]


def test_doctor_finds_a_full_disk(call, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, out, _ = call("doctor")
    assert code == 4
    assert "1000 B free" in out
