"""`export` and `import`, in this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dd_core import store
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.exchange import STATISTICS
from dd_core.recipe import Recipe

CLASSES = tuple("0123456789")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(call) -> Callable[..., str]:
    """Run a command line that the user got wrong: its one line."""

    def run(*words: object) -> str:
        code, out, err = call(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("error: ")
        return err

    return run


@pytest.fixture
def ds() -> DistilledSet:
    """One 1x8x8 image of each digit, in `set.safetensors`."""
    images = np.random.default_rng(0).normal(size=(10, 1, 8, 8)).astype(np.float32)
    pixels = Pixels(space="normalised", mean=(0.3,), std=(0.4,))
    manifest = Manifest(classes=CLASSES, pixels=pixels, recipe=Recipe(learning_rate=0.02))
    ds = DistilledSet(images, np.arange(10), manifest)
    store.write_set(Path("set.safetensors"), ds)
    return ds


@pytest.fixture
def bare(ds: DistilledSet) -> Path:
    """The files of MTT, and nothing that says what they are."""
    folder = Path("mtt")
    folder.mkdir()
    torch.save(ds.inputs(), folder / "images_best.pt")
    torch.save(torch.arange(10), folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr_best.pt")
    return folder


# --- export --------------------------------------------------------------------------------------------------


def test_export_says_what_it_wrote_and_what_does_not_travel(ds: DistilledSet, call, call_json):
    found = call_json("export", "set.safetensors", "--format", "mtt", "--out", "new/out")
    assert {key: found[key] for key in ("path", "format", "images", "classes")} == {
        "path": "new/out",
        "format": "mtt",
        "images": 10,
        "classes": 10,
    }
    assert sorted(found["files"]) == sorted(path.name for path in Path("new/out").iterdir())
    assert any("the recipe" in line for line in found["lost"])
    code, out, err = call("export", "set.safetensors", "--format", "png", "--out", "images")
    assert (code, err) == (0, "")
    assert "files: 0/00000.png, 1/00000.png, 2/00000.png, 3/00000.png, 4/00000.png and 5 more\n" in out
    assert "does not travel: the recipe (learning rate 0.02" in out


def test_an_export_is_replaced_only_when_asked_to(ds: DistilledSet, call_json, refused):
    command = ["export", "set.safetensors", "--format", "mtt", "--out", "out"]
    call_json(*command)
    call_json(*command)
    Path("out/lr_best.pt").write_bytes(b"another")
    assert "out/lr_best.pt: something else is there; use another --out, or --fresh to replace it" in refused(*command)
    call_json(*command, "--fresh")
    assert torch.load("out/lr_best.pt", weights_only=True).item() == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["set.safetensors", "--format", "mat"], "unknown format 'mat'; did you mean 'mtt'?"),
        (["set.safetensors", "--format", "challenge"], "this set has 10 of 1x8x8"),
        (["none.safetensors", "--format", "mtt"], "none.safetensors: No such file"),
        (["set.safetensors"], "Missing option '--format'"),
    ],
)
def test_what_cannot_be_exported_is_one_line(words: list[str], line: str, ds: DistilledSet, refused):
    assert line in refused("export", *words, "--out", "out")
    assert not Path("out").exists()


# --- import --------------------------------------------------------------------------------------------------


def test_an_export_is_imported_without_being_told_anything(ds: DistilledSet, call, call_json):
    call_json("export", "set.safetensors", "--format", "mtt", "--out", "out")
    found = call_json("import", "out", "--format", "mtt", "--out", "new/back.safetensors")
    back = store.read_set(Path("new/back.safetensors"))
    assert found["path"] == "new/back.safetensors"
    assert found["sha256"] == store.file_sha256(Path("new/back.safetensors"))
    assert (found["images"], found["classes"]) == (10, 10)
    assert torch.equal(back.inputs(), ds.inputs())
    assert back.manifest.recipe.learning_rate == 0.02
    code, out, _ = call(
        "import", "out", "--format", "mtt", "--out", "new/back.safetensors", "--data", "digits", "--fresh"
    )
    assert code == 0
    assert "dd-apps evaluate new/back.safetensors --data digits" in out


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (["--data", "digits"], CLASSES),
        (["--classes", "a,b,c,d,e,f,g,h, i ,j"], tuple("abcdefghij")),
        (["--classes", "names.txt"], tuple(f"class, {index}" for index in range(10))),
    ],
)
def test_what_the_files_do_not_say_is_told(words: list[str], classes: tuple[str, ...], bare: Path, ds, call_json):
    Path("names.txt").write_text("".join(f"class, {index}\n" for index in range(10)))
    told = ["--mean", "0.3", "--std", "0.4", *words]  # a name in a file may hold a comma
    call_json("import", bare, "--format", "mtt", "--out", "a.safetensors", *told, "--set", "recipe.epochs=7")
    found = store.read_set(Path("a.safetensors"))
    assert found.manifest.pixels == ds.manifest.pixels
    assert found.classes == classes
    assert found.manifest.recipe.epochs == 7
    assert ("flip" in found.manifest.recipe.augmentation) == (words[0] != "--data")
    assert np.allclose(found.raw(), ds.raw(), atol=1e-6)


def photographs(*names: str) -> str:
    """A folder of photographs of two sizes, one of them no image at all."""
    for index, name in enumerate(names):
        folder = Path("photos/train") / name
        folder.mkdir(parents=True)
        Image.new("RGB", (20 + index, 30)).save(folder / "a.png")
    (Path("photos/train") / names[0] / "b.jpg").write_bytes(b"no image")
    return "folder:photos"


def test_the_names_of_photographs_are_taken_from_their_folders_and_no_image_is_read(bare: Path, call_json):
    told = ["--mean", "0.3", "--std", "0.4", "--data", photographs(*"jihgfedcba")]
    call_json("import", bare, "--format", "mtt", "--out", "a.safetensors", *told)
    assert store.read_set(Path("a.safetensors")).classes == tuple("abcdefghij")
    assert not Path("cache/index").exists(), "images were examined"


@pytest.mark.parametrize(
    ("data", "first"), [("cifar10", "airplane"), ("stl10", "airplane"), ("fashion-mnist", "T-shirt/top")]
)
def test_the_names_of_a_data_set_need_no_download(data: str, first: str, bare: Path, call_json):
    told = ["--mean", "0.3", "--std", "0.4", "--data", data]
    call_json("import", bare, "--format", "mtt", "--out", "a.safetensors", *told)
    assert store.read_set(Path("a.safetensors")).classes[0] == first
    assert not Path("cache/data").exists()


def test_names_that_are_given_need_no_data(bare: Path, call_json):
    told = ["--mean", "0.3", "--std", "0.4", "--data", "folder:elsewhere", "--classes", ",".join("jihgfedcba")]
    call_json("import", bare, "--format", "mtt", "--out", "a.safetensors", *told)
    assert store.read_set(Path("a.safetensors")).classes == tuple("jihgfedcba")


def test_names_in_another_order_than_the_sidecars_are_refused_unless_they_are_to_override_it(
    ds: DistilledSet, call_json, refused
):
    call_json("export", "set.safetensors", "--format", "mtt", "--out", "out")
    command = ["import", "out", "--format", "mtt", "--out", "a.safetensors", "--classes", "1,0,2,3,4,5,6,7,8,9"]
    assert "out/normalisation.json: says that class 0 is '0', and the names that are given have '1'" in refused(
        *command
    )
    assert not Path("a.safetensors").exists()
    call_json(*command, "--override")
    assert store.read_set(Path("a.safetensors")).classes == tuple("1023456789")


def test_what_lies_beside_files_that_are_named_one_by_one_counts_too(ds: DistilledSet, call_json, refused):
    store.write_set(Path("set.safetensors"), ds)
    call_json("export", "set.safetensors", "--format", "mtt", "--out", "out")
    command = ["import", "--images", "out/images_best.pt", "--labels", "out/labels_best.pt", "--format", "mtt"]
    command += ["--lr", "out/lr_best.pt", "--out", "a.safetensors"]
    assert "says that class 0 is '0'" in refused(*command, "--classes", "1,0,2,3,4,5,6,7,8,9")
    call_json(*command)
    assert store.read_set(Path("a.safetensors")).classes == ds.classes


def test_raw_pixels_and_other_names_of_files(bare: Path, ds: DistilledSet, call_json):
    torch.save(torch.from_numpy(ds.raw()), "raw.pt")
    torch.save(torch.eye(10), "logits.pt")
    files = ["--images", "raw.pt", "--labels", "logits.pt", "--lr", bare / "lr_best.pt"]
    told = ["--mean", "0.3", "--std", "0.4", "--space", "raw", "--data", "digits"]
    call_json("import", *files, "--format", "datm", "--out", "a.safetensors", *told)
    found = store.read_set(Path("a.safetensors"))
    assert torch.allclose(found.inputs(), ds.inputs(), atol=1e-5)
    assert found.manifest.targets == "logits"
    assert found.labels is not None
    assert found.labels.tolist() == list(range(10))


def test_a_submission_is_imported(call_json):
    Path("submission").mkdir()
    torch.save(torch.zeros(1000, 3, 32, 32), "submission/cifar100.pt")
    Path("names.txt").write_text("\n".join(f"class {index}" for index in range(100)), encoding="utf-8-sig")
    call_json("import", "submission", "--format", "challenge", "--classes", "names.txt", "--out", "a.safetensors")
    found = store.read_set(Path("a.safetensors"))
    assert (found.classes[0], found.classes[99]) == ("class 0", "class 99")
    assert found.manifest.recipe.network == "convnet-3"


def test_an_import_is_replaced_only_when_asked_to(bare: Path, call_json, refused):
    command = ["import", bare, "--format", "mtt", "--out", "a.safetensors", "--mean", "0.3", "--std", "0.4"]
    first = call_json(*command, "--data", "digits")
    assert call_json(*command, "--data", "digits") == first
    other = [*command, "--data", "digits", "--set", "recipe.epochs=7"]
    assert "a.safetensors: something else is there; use another --out, or --fresh" in refused(*other)
    assert store.file_sha256(Path("a.safetensors")) == first["sha256"]
    assert call_json(*other, "--fresh")["sha256"] != first["sha256"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["mtt", "--data", "digits"], "--like NAME"),
        (["mtt", "--mean", "0.3", "--std", "0.4"], "--classes a,b,c"),
        (["mtt", "--data", "digits", "--mean", "0.3"], "--mean and --std together"),
        (["mtt", "--data", "digits", "--like", "cifar10", "--mean", "0.3", "--std", "0.4"], "together"),
        (["mtt", "--data", "digits", "--mean", "0.3", "--std", "zero"], "--std zero: expected numbers"),
        (["mtt", "--data", "digits", "--mean", "0.3", "--std", "0"], "--mean and --std: std must be positive"),
        (["mtt", "--data", "digits", "--mean", "0.3,1", "--std", "1"], "mean has 2 channels and std 1"),
        (["mtt", "--data", "digits", "--mean", "nan", "--std", "1"], "--mean and --std: mean"),
        (["mtt", "--data", "digits", "--like", "cifar10"], "1 channels, but the normalisation has 3"),
        (["mtt", "--data", "digits", "--like", "cifar"], "unknown statistics 'cifar'"),
        (["mtt", "--data", "digits", "--space", "whitened"], "--images images_zca_best.pt --space raw"),
        (["mtt", "--data", "digits", "--space", "zca"], "unknown space 'zca'"),
        (["mtt", "--space", "raw"], "say by what to normalise before use"),
        (
            ["mtt", "--classes", "a", "--mean", "0.3", "--std", "0.4"],
            "--classes a: No such file or directory; expected names",
        ),
        (
            ["mtt", "--data", "digit", "--classes", "a,b", "--mean", "0.3", "--std", "0.4"],
            "unknown data set 'digit'; did you mean 'digits'",
        ),
        (["mtt", "--classes", "a" * 300, "--mean", "0.3", "--std", "0.4"], "File name too long; expected names"),
        (["mtt", "--classes", "a,,b", "--mean", "0.3", "--std", "0.4"], "--classes a,,b: expected names"),
        (["mtt", "--classes", "mtt/lr_best.pt", "--mean", "0.3", "--std", "0.4"], "is no UTF-8 text; expected names"),
        (
            ["mtt", "--data", "digit", "--mean", "0.3", "--std", "0.4"],
            "unknown data set 'digit'; did you mean 'digits'",
        ),
        (
            ["mtt", "--data", "digits", "--mean", "0.3", "--std", "0.4", "--set", "epochs=3"],
            "as in --set recipe.epochs",
        ),
        (
            ["mtt", "--data", "digits", "--mean", "0.3", "--std", "0.4", "--set", "recipe.epoch=3"],
            "did you mean 'epochs'",
        ),
        (["mtt", "--labels", "mtt/labels_best.pt"], "which files? Give the PATH"),
        (["--images", "mtt/images_best.pt"], "which files? Give the PATH"),
        ([], "which files? Give the PATH"),
        (["elsewhere"], "elsewhere: not a folder with images_best.pt"),
        (["mtt", "--format", "mat"], "unknown format 'mat'; did you mean 'mtt'?"),
        (["mtt", "--format", "challenge", "--like", "cifar100", "--data", "digits"], "with its own mean and std"),
        (["mtt", "--format", "challenge"], "has no class names; give --data NAME"),
        (["mtt", "--out", "a.pt"], "a.pt: a distilled set is a .safetensors file"),
    ],
)
def test_what_cannot_be_imported_is_one_line(words: list[str], line: str, bare: Path, refused):
    found = refused("import", "--format", "mtt", "--out", "a.safetensors", *words)
    assert line in found
    assert not Path("a.safetensors").exists()


def test_an_imported_set_is_scored(ds: DistilledSet, call_json):
    call_json("export", "set.safetensors", "--format", "mtt", "--out", "out")
    quick = ["--set", "recipe.network=convnet-1-w8", "--set", "recipe.epochs=1"]
    call_json("import", "out", "--format", "mtt", "--out", "back.safetensors", *quick)
    found = call_json("evaluate", "back.safetensors", "--data", "digits", "--nets", 1)
    assert 0 <= found["accuracy"]["mean"] <= 1
    assert found["random_real"]["mean"] > 0


def test_the_verbs_explain_themselves(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "\n  export " in out
    assert "\n  import " in out
    for verb in ("export", "import"):
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert all(word in out for word in ("--json", "--format", "--out", "--fresh"))
    assert all(f"{name} (" in " ".join(out.split()) for name in STATISTICS)


def test_neither_verb_needs_torch_to_explain_itself():
    ask = (
        "import sys; from dd_apps.cli import main; main(['import', '--help']); main(['export', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True).returncode == 0
