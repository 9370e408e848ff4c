"""How long a run takes, said before it begins; and settings for photographs, by their size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dd_core import artefacts, store
from dd_core.artefacts import Resources
from dd_core.distilled import Size
from dd_core.errors import Diverged, OutOfResources, UserError
from dd_core.methods import decode_method, method
from dd_core.methods.presets import PHOTOS, SIDES, completed, preset
from dd_core.methods.trajectory_matching.expert import Expert
from dd_core.methods.trajectory_matching.experts import ExpertsSpec
from dd_core.runner import Forecast, RunOptions, distill, forecast, forecasting
from dd_core.system.parallel import Workers
from dd_core.testing import blobs

BLOBS = blobs(classes=3, per_class=20)
CPU = RunOptions(device="cpu")
NETWORK = {"network": "convnet-1-w4"}
MTT = {"steps": 6, "syn_steps": 2, "experts": 4, "expert_epochs": 1, "last_epoch": 3, "recipe": NETWORK}


@pytest.fixture(autouse=True)
def _own_cache_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


class Clock:
    """A method whose steps take so many seconds of a clock of its own."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds, self.steps = 0.0, seconds, list[int]()

    def step(self, index: int) -> dict[str, float]:
        self.steps.append(index)
        self.now += self.seconds[min(index, len(self.seconds) - 1)]
        return {"loss": 0.0}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[float, int]]:
    """(seconds a step, steps done) of a `Clock`."""

    def run(*seconds: float, most: int = 1000) -> tuple[float, int]:
        clock = Clock(*seconds)
        monkeypatch.setattr(forecasting.time, "monotonic", lambda: clock.now)
        each = forecasting.seconds_a_step(clock.step, most)
        return each, len(clock.steps)

    return run


def test_steps_are_timed_for_some_seconds_after_the_first(timed):
    assert timed(3.0, 1.0, 2.0, 3.0, 9.0) == (2.0, 4)  # 1 + 2 + 3 s are enough
    assert timed(14.0, 5.0) == (5.0, 2)


def test_a_slow_first_step_stands_for_all(timed):
    assert timed(16.0, 1.0) == (16.0, 1)


def test_no_more_steps_are_timed_than_there_are(timed):
    assert timed(0.5, 0.25, most=3) == (0.25, 3)
    assert timed(0.5, 0.25, most=1) == (0.5, 1)


IN_WORDS = {0.0: "1 s", 11.2: "12 s", 89.0: "89 s", 91.0: "2 min", 29.6 * 60: "30 min", 5399.0: "90 min"}
IN_WORDS |= {5400.0: "1.5 h", 9.94 * 3600: "9.9 h", 11.0 * 3600: "11 h", 80.0 * 3600: "3 days"}


@pytest.mark.parametrize(("seconds", "words"), IN_WORDS.items())
def test_seconds_in_words(seconds: float, words: str):
    assert forecasting.duration(seconds) == words


def test_a_forecast_says_what_it_knows_and_what_not():
    both = Forecast("mtt", 300, 600.0, {"10 experts": 300.0})
    assert str(both) == "mtt takes about 15 min on this machine (10 experts 5 min, 300 steps 10 min)"
    assert (both.seconds, both.untold) == (900.0, ())
    half = Forecast("sre2l", 0, 0.0, {"1 teacher": None})
    assert str(half) == "no forecast for sre2l; the time of 1 teacher cannot be forecast"
    steps = Forecast("dataset-distillation", 20, 30.0, {"1 teacher": None, "2 banks": None})
    assert str(steps).endswith("(20 steps 30 s); the time of 1 teacher and 2 banks cannot be forecast")


def test_of_the_load_a_process_is_at_most_all_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "times", lambda: (5000.0, 0.0, 1000.0, 0.0, 9000.0))  # of hours, not of the last minute
    for load, told in ((3.4, None), (4.0, 2.0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert forecasting._load() == told


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (1.5, False), (1.6, True), (7.0, True)])
def test_a_forecast_on_a_busy_machine_says_so(load: float, busy: bool, call, call_json, monkeypatch, photographs):
    monkeypatch.setattr(forecasting, "seconds_a_step", lambda step, most: 60.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (load + 1.0, 9.0, 9.0))
    monkeypatch.setattr(os, "times", lambda: (40.0, 5.0, 10.0, 5.0, 1000.0))  # this process's minute
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    words = command("--forecast", "--set", "recipe.network=convnet-1-w4")
    told = f"; this machine is busy (load {load:.1f}, 2 cores), and an idle one takes less" if busy else ""
    assert call(*words)[1] == f"dm takes about 2 min on this machine (2 steps 2 min){told}\n"
    assert call_json(*words).get("load") == (load if busy else None)


def test_where_the_system_tells_no_load_nothing_is_said_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.setattr(forecasting, "seconds_a_step", lambda step, most: 0.5)
    assert forecast({"name": "dm", "steps": 40, "recipe": NETWORK}, BLOBS, 1, options=CPU).load is None


def test_it_is_as_many_steps_as_the_run_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forecasting, "seconds_a_step", lambda step, most: 0.5)
    told = forecast({"name": "dm", "steps": 40, "recipe": NETWORK}, BLOBS, 1, options=CPU)
    assert (told.stepping, told.making, told.seconds) == (20.0, {}, 20.0)


def test_a_method_without_a_loop_takes_no_time():
    assert forecast("random", BLOBS, 1, options=CPU).seconds == 0.0


@pytest.mark.parametrize("name", ["mtt", "ftd", "datm", "m-datm", "tesla"])
def test_experts_are_counted_and_their_steps_rehearsed(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Expert, "seconds_a_step", lambda self: 2.0)
    monkeypatch.setattr(forecasting, "seconds_a_step", lambda step, most: 0.5)
    config = method(name, **{**MTT, "range_start": None, "training": {"epochs": 5, "batch_size": 25}})
    told = forecast(config, BLOBS, 1, options=CPU)
    asked = config.needs(BLOBS, size=Size(ipc=1), seed=0)["experts"]
    assert isinstance(asked, ExpertsSpec)
    assert told.making == {"4 experts": 4 * asked.end * 3 * 2.0}  # 60 images are three batches of 25
    assert told.stepping == 3.0
    shared = forecast(config, BLOBS, 1, options=RunOptions(device="cpu", workers=Workers(count=3)))
    assert shared.making == {"4 experts": 4 * asked.end * 3 * 2.0 / 3}


def test_experts_of_the_cache_take_no_time():
    config = method("mtt", **MTT)
    spec = config.needs(BLOBS, size=Size(ipc=1), seed=0)["experts"]
    artefacts.get(spec.model_copy(update={"count": 3}), resources=Resources.of([BLOBS], device="cpu"))
    assert list(forecast(config, BLOBS, 1, options=CPU).making) == ["1 expert"]
    artefacts.get(spec, resources=Resources.of([BLOBS], device="cpu"))
    assert forecast(config, BLOBS, 1, options=CPU).making == {}


def test_a_rehearsal_has_the_steps_of_the_run():
    config = method("datm", **{**MTT, "range_start": 2, "batch_syn": 2, "training": {"epochs": 5}})
    rehearsal = config.rehearsal(BLOBS, Size(ipc=4))
    assert rehearsal is not None
    short, images = rehearsal
    cheap = {"experts", "last_epoch", "range_start", "threshold", "initial", "soft_labels", "training"}
    before, after = config.model_dump(), short.model_dump()
    assert {key for key in before if before[key] != after[key]} == cheap
    assert len(images) == 12  # 4 of each class: the expert's epoch is one step
    assert [int((images.labels == label).sum()) for label in range(3)] == [4, 4, 4]


def test_a_forecast_leaves_nothing_and_changes_nothing(tmp_path: Path):
    plainly = distill(method("mtt", **MTT), BLOBS, 1, options=CPU)
    artefacts.prune(everything=True)
    forecast(method("mtt", **MTT), BLOBS, 1, options=CPU)
    assert artefacts.listing() == []
    assert distill(method("mtt", **MTT), BLOBS, 1, options=CPU).digest() == plainly.digest()


def test_what_is_pretrained_has_steps_to_rehearse_and_networks_to_wait_for():
    config = {"name": "dataset-distillation", "steps": 2, "start": "random-pretrained", "pool": 5, "recipe": NETWORK}
    told = forecast(config, BLOBS, 1, options=CPU)
    assert told.stepping is not None
    assert told.making == {"5 networks to start from": None}


def test_a_teacher_is_not_forecast():
    told = forecast({"name": "sre2l", "teacher": {"network": "convnet-1-w4-batchnorm"}}, BLOBS, 1, options=CPU)
    assert told.stepping is None or told.steps == 0
    assert "1 teacher" in told.untold


def test_a_forecast_fails_as_the_run_would(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="21 are asked for"):
        forecast("dm", BLOBS, 21, options=CPU)
    with pytest.raises(UserError, match="threads=100"):
        forecast("dm", BLOBS, 1, options=RunOptions(threads=100))
    with pytest.raises(Diverged, match="this was a forecast, and nothing is lost"):
        forecast({"name": "dm", "steps": 9, "lr_img": 1e38, "recipe": NETWORK}, BLOBS, 1, options=CPU)
    monkeypatch.setattr("dd_core.methods.dm.DMDistiller", _out_of_memory)
    with pytest.raises(OutOfResources, match="while preparing the forecast"):
        forecast({"name": "dm", "recipe": NETWORK}, BLOBS, 1, options=CPU)


def _out_of_memory(*_: object) -> None:
    raise MemoryError


# --- settings for photographs --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PHOTOS))
@pytest.mark.parametrize("side", SIDES)
def test_every_preset_is_a_table_of_its_method(name: str, side: int):
    settings = preset("photos", name, image_size=side)
    config = decode_method({**settings, "name": name})
    assert settings == completed(settings, {})
    if name not in ("dataset-distillation",):
        assert (
            config.recipe.network
            == {32: "convnet-w64", 64: "convnet-w32", 128: "convnet-w32", 256: "convnet-w16"}[side]
        )
    if "steps" in settings:
        assert config.steps == settings["steps"] > 0


def test_a_preset_goes_by_the_image_size():
    steps = [preset("photos", "dm", image_size=side)["steps"] for side in (1, 32, 33, 64, 65, 128, 129, 224, 256)]
    assert steps == sorted(steps, reverse=True)
    assert len({*steps}) == 4
    assert [steps[index] for index in (0, 2, 4, 6)] == [steps[index] for index in (1, 3, 5, 8)]


def test_what_a_user_sets_comes_before_the_preset():
    table = {"name": "mtt", "steps": 3, "training": {"epochs": 9}}
    config = decode_method(completed(table, preset("photos", "mtt", image_size=64)))
    assert config.steps == 3
    assert config.training.epochs == 9  # pyright: ignore[reportAttributeAccessIssue]
    assert config.training.batch_size == 64  # pyright: ignore[reportAttributeAccessIssue]
    assert config.recipe.network == "convnet-w32"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("photo", "dm", 64), "unknown preset 'photo'; did you mean 'photos'?"),
        (
            ("photos", "sre2l", 64),
            "no settings for the method 'sre2l'; it has settings for average, dataset-distillation",
        ),
        (("photos", "dm", 257), "for images of up to 256 pixels a side, and these have 257; make them smaller"),
    ],
)
def test_mistakes_in_a_preset(given: tuple[str, str, int], line: str):
    name, of, side = given
    with pytest.raises(UserError, match=line.replace("?", r"\?")):
        preset(name, of, image_size=side)


# --- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """`photos/CLASS/N.png`: ten images of 40 x 36 pixels of each of two classes."""
    draw = np.random.default_rng(0)
    for index in range(20):
        path = tmp_path / "photos" / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def command(*words: object) -> list[object]:
    data = ["--data", "folder:photos", "--image-size", 36, "--ipc", 1, "--set", "steps=2", "--device", "cpu"]
    return ["distill", "dm", *data, "--out", "a.safetensors", *words]


def test_a_preset_on_the_command_line(photographs: Path, call, call_json, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forecasting, "seconds_a_step", lambda step, most: 60.0)
    code, _, err = call(*command("--preset", "photos"))
    assert code == 0
    assert "dm takes about 2 min on this machine (2 steps 2 min)\n" in err
    provenance = store.read_set(Path("a.safetensors")).manifest.provenance
    assert provenance is not None
    assert (provenance.config["steps"], provenance.config["batch_real"]) == (2, 32)  # the first was set
    assert provenance.config["recipe"]["network"] == "convnet-w32"
    again = call(*command("--preset", "photos"))
    assert (again[0], "takes about" in again[2]) == (0, False)


@pytest.mark.parametrize(("side", "noted"), [(64, False), (65, True)])
def test_a_preset_that_taught_nothing_says_so(side: int, noted: bool, photographs: Path, call, monkeypatch):
    monkeypatch.setattr(forecasting, "seconds_a_step", lambda step, most: 60.0)
    words = command("--preset", "photos", "--forecast", "--image-size", side, "--set", "recipe.network=convnet-1-w4")
    words[1] = "dataset-distillation"
    code, _, err = call(*words)
    assert code == 0
    line = "note: sets of dataset-distillation by this preset taught networks nothing at 128 px"
    assert (line in err) == noted
    words[1] = "dm"
    assert "note:" not in call(*words)[2]


def test_a_forecast_on_the_command_line(photographs: Path, call, call_json, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forecasting, "seconds_a_step", lambda step, most: 60.0)
    code, out, _ = call(*command("--preset", "photos", "--forecast", "--log", "tensorboard"))
    assert (code, out) == (0, "dm takes about 2 min on this machine (2 steps 2 min)\n")
    fields: dict[str, Any] = call_json(*command("--forecast", "--set", "recipe.network=convnet-1-w4"))
    assert fields == {"seconds": 120.0, "parts": {"steps": 120.0}, "untold": []}
    assert sorted(path.name for path in Path().iterdir() if path.name != "cache") == ["photos"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--preset", "photo"], "did you mean 'photos'?"),
        (["--preset", "photos", "--image-size", "300"], "these have 300"),
    ],
)
def test_mistakes_in_a_preset_are_told_before_images_are_read(words: list[str], line: str, call):
    code, out, err = call(*command("--data", "folder:none", *words))
    assert (code, out) == (2, "")
    assert line in err
