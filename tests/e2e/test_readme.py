"""The snippets of the README do what they say. Those of CONTRIBUTING have a file of their own."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dd_core import store
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.recipe import Recipe

ROOT = Path(__file__).parents[2]


def _blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def _run(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    return printed.getvalue()


def test_the_python_snippets_run():
    snippets = _blocks("README.md", "python")
    assert len(snippets) == 5
    assert _run(snippets[0]) == "DistilledSet(10 images 1 x 8 x 8 float32, 10 classes, dm of digits, 2.5 KiB)\n"
    assert Path("digits.safetensors").exists()


def test_the_snippet_of_plain_objects_runs():
    printed = _run(_blocks("README.md", "python")[1])
    assert re.fullmatch(r"0\.[3-9]\d, random real images 0\.\d\d", printed.strip().splitlines()[-1])
    assert Path("averages.png").read_bytes().startswith(b"\x89PNG")


def test_the_avalanche_snippet_runs():
    assert _run(_blocks("README.md", "python")[2]).strip().endswith("10 classes in 640 bytes")


def test_the_nni_snippet_runs():
    values = eval(_run(_blocks("README.md", "python")[3]).strip().splitlines()[-1])
    assert len(values) == 2
    assert 0 < values[1] <= values[0] < 1


def test_the_transfer_snippet_runs():
    assert 0.2 < float(_run(_blocks("README.md", "python")[4]).strip().splitlines()[-1]) <= 1


def test_the_shell_snippets_run(capsys: pytest.CaptureFixture[str]):
    from dd_apps.cli import main

    lines = [line[2:] for block in _blocks("README.md", "console") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("dd-apps")]
    assert len(commands) == 4
    tiny = "methods={dm={steps=1, batch_real=8, recipe={network='convnet-1-w4', epochs=2}}}"
    short = ["networks=['convnet-1-w4']", "seeds=1", "ipcs=[1]", "workers=1", "at={}", tiny]
    for line in commands:
        fewer = ["--nets", "1"] if "evaluate" in line else []  # five take half a minute longer and run the same code
        if "compare/" in line:  # a minute longer
            fewer = [word for setting in short for word in ("--set", setting)]
        assert main([*shlex.split(line)[1:], *fewer]) == 0, capsys.readouterr().err
    assert Path("digits.png").read_bytes().startswith(b"\x89PNG")


def _exchanged(*, logits: bool) -> DistilledSet:
    """A set of the size that the challenge takes, with soft labels as DATM learns them or without."""
    generator = np.random.default_rng(0)
    images, labels = generator.normal(size=(1000, 3, 32, 32)).astype(np.float32), np.arange(100).repeat(10)
    # what --like cifar100-mtt says, which is not to contradict what an export wrote beside its files
    pixels = Pixels(space="normalised", mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    names = tuple(f"class {index:02d}" for index in range(100))
    manifest = Manifest(classes=names, pixels=pixels, targets="logits" if logits else "none", recipe=Recipe())
    targets = generator.normal(size=(1000, 100)).astype(np.float32) if logits else None
    return DistilledSet(images, labels, manifest, targets)


def test_the_commands_that_exchange_sets_run(capsys: pytest.CaptureFixture[str]):
    from dd_apps.cli import main

    every = [line.split("#")[0].strip() for block in _blocks("README.md", "sh") for line in block.splitlines()]
    lines = [line for line in every if "photos" not in line]
    assert [line.split()[:2] for line in lines] == [["dd-apps", "export"]] * 3 + [["dd-apps", "import"]]
    for line in lines:
        store.write_set(Path("set.safetensors"), _exchanged(logits="--format mtt" in line))
        words = shlex.split(line)[1:]
        if "--data" in words:  # CIFAR-100 has to be downloaded; a folder with as many classes stands for it
            words[words.index("--data") + 1] = "folder:mine"
            shutil.copytree("mine/train", "mine/test")
        assert main(words) == 0, capsys.readouterr().err
    hard, soft = _exchanged(logits=False), _exchanged(logits=True)
    assert torch.load("submission/cifar100.pt", weights_only=True).shape == (1000, 3, 32, 32)
    assert sorted(path.name for path in Path("mine/train").iterdir()) == sorted(hard.classes)
    assert len(list(Path("mine/train").rglob("*.png"))) == 1000
    theirs = store.read_set(Path("theirs.safetensors"))
    assert (theirs.classes, theirs.manifest.targets) == (hard.classes, "logits")
    assert np.array_equal(theirs.targets, soft.targets)
    assert theirs.manifest.pixels.mean == (0.4914, 0.4822, 0.4465)
    assert torch.equal(theirs.inputs(), soft.inputs())
    assert theirs.manifest.recipe.learning_rate == soft.manifest.recipe.learning_rate


def test_the_page_on_photographs_goes_from_a_folder_to_a_scored_and_drawn_set(capsys: pytest.CaptureFixture[str]):
    from dd_apps.cli import main

    draw = np.random.default_rng(0)
    for index in range(40):
        path = Path("photos") / f"class {index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(path)
    lines = [line for block in _blocks("README.md", "sh") for line in block.splitlines() if "photos" in line]
    verbs = [line.split()[1] for line in lines]
    assert verbs == ["distill", "evaluate", "inspect", "distill", "distill"]
    few = ["steps=1", "recipe.epochs=1", "recipe.network=convnet-4-w4"]
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "distill":
            words += [word for setting in few for word in ("--set", setting)]
        capsys.readouterr()
        assert main(words) == 0, capsys.readouterr().err
        if "--forecast" in words:
            assert re.match(r"(mtt|dataset-distillation) takes about \d+ ", capsys.readouterr().out)
    assert Path("photos.png").read_bytes().startswith(b"\x89PNG")
    assert store.read_set(Path("photos.safetensors")).images.shape == (20, 3, 64, 64)
    assert not [*Path().glob("mtt*"), *Path().glob("dd*")]


def test_the_commands_of_a_teacher_run(capsys: pytest.CaptureFixture[str]):
    from dd_apps.cli import main

    lines = [line.split("#")[0].strip() for block in _blocks("README.md", "bash") for line in block.splitlines()]
    assert [line.split()[1] for line in lines] == ["distill", "relabel", "evaluate", "evaluate"]
    settings = ("teacher.epochs=1", "teacher.batch_size=500", "recover.iterations=2", "recipe.epochs=2")
    short = [word for setting in settings for word in ("--set", setting)]
    more = {"distill": short, "relabel": ["--json"], "evaluate": ["--nets", "1"]}
    folder = ""
    for line in lines:
        words = shlex.split(line.replace("FOLDER", folder))[1:]
        capsys.readouterr()
        assert main([*words, *more[words[0]]]) == 0, capsys.readouterr().err
        if words[0] == "relabel":
            folder = json.loads(capsys.readouterr().out)["path"]
    assert Path("recovered.safetensors").exists()


def test_the_two_commands_are_targets_of_the_makefile():
    lines = [line.split("#")[0].strip() for block in _blocks("README.md", "console") for line in block.splitlines()]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert [line for line in lines if "make" in line] == ["$ make quickstart", "$ make test"]
    assert {"quickstart", "test"} <= set(targets)


def test_the_table_of_methods_is_the_table_of_methods():
    from dd_core.methods import METHODS

    section = (ROOT / "README.md").read_text().partition("\n## Methods\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|.*\| (works|not yet) \|$", section, flags=re.MULTILINE)
    stated = {name: state for names, state in rows for name in re.findall(r"`(.*?)`", names)}
    assert {name for name, state in stated.items() if state == "works"} == set(METHODS)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "REPRODUCIBILITY.md", "CHANGELOG.md"])
def test_what_the_documents_link_to_is_there(document: str):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_benchmark_of_the_makefile_is_there():
    (names,) = re.findall(r"^BENCHES := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    scripts = [ROOT / "benchmarks" / f"{name.removeprefix('bench-').replace('-', '_')}.py" for name in names.split()]
    assert [script.name for script in scripts if not script.exists()] == []
