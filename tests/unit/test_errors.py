"""Errors carry options, and whoever asked spells them; nothing on the way loses them."""

from __future__ import annotations

import pickle

import pytest
from pydantic import field_validator

from dd_apps.cli.options import as_flag
from dd_core.config import Config, checked, decode
from dd_core.errors import FRESH, OUT, DDError, Diverged, Interrupted, Option, OutOfResources, UserError
from dd_core.system import parallel
from dd_core.system.parallel import Workers

SIZE = Option("image_size", 64)
ERROR = UserError(f"mixed sizes; give one, such as {SIZE}, or {FRESH}, or another {OUT}")


@pytest.mark.parametrize(
    ("option", "python", "flag"),
    [
        (Option("image_size", 64), "image_size=64", "--image-size 64"),
        (Option("image_size"), "image_size", "--image-size"),
        (Option("skip_corrupt", True), "skip_corrupt=True", "--skip-corrupt"),
        (Option("parallel", "ray"), "parallel='ray'", "--parallel ray"),
        (Option("recipe.learning_rate", 0.01), "recipe.learning_rate=0.01", "--set recipe.learning_rate=0.01"),
        (Option("data", "it's = here"), 'data="it\'s = here"', "--data it's = here"),
    ],
)
def test_python_and_the_command_line_spell_an_option_each_in_its_own_way(option: Option, python: str, flag: str):
    error = UserError(f"before {option} after")
    assert str(error) == f"before {python} after"
    assert error.spelled(as_flag) == f"before {flag} after"


def test_a_line_may_hold_several_options():
    assert str(ERROR) == "mixed sizes; give one, such as image_size=64, or fresh=True, or another out"
    assert ERROR.spelled(as_flag) == "mixed sizes; give one, such as --image-size 64, or --fresh, or another --out"


@pytest.mark.parametrize("kind", [UserError, Diverged, OutOfResources, DDError])
def test_an_error_that_repeats_another_keeps_its_options(kind: type[DDError]):
    again = kind(f"file.toml: {ERROR.text}")
    assert again.spelled(as_flag).startswith("file.toml: mixed sizes; give one, such as --image-size 64,")


def test_options_survive_another_process():
    for error in (ERROR, Interrupted(f"use {OUT}", 15)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.exit_code) == (type(error), error.exit_code)
        assert again.spelled(as_flag) == error.spelled(as_flag)


def test_options_come_back_out_of_a_worker():
    with pytest.raises(UserError) as caught:
        list(parallel.run(parallel.check_engine, ["rya"] * 2, workers=Workers(count=2), uses_torch=False))
    assert caught.value.spelled(as_flag).startswith("unknown engine for --parallel 'rya'; did you mean 'ray'?")


class Chosen(Config):
    engine: str

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        return checked(engine, parallel.check_engine)


def test_a_value_that_is_decoded_keeps_the_options_of_its_error():
    with pytest.raises(UserError) as caught:
        decode(Chosen, {"engine": "rya"}, where="mine.toml")
    assert caught.value.spelled(as_flag).startswith("mine.toml: engine: unknown engine for --parallel 'rya'; did you")


def test_an_error_without_a_line_is_empty():
    assert str(UserError()) == ""


def test_a_line_is_one_line_whatever_a_file_says():
    error = UserError(f"no 'a\n\u202eb\x1b[31m\ud800', see {Option('out')}")
    assert str(error) == r"no 'a\n\u202eb\x1b[31m\ud800', see out"
    assert error.spelled(lambda option: f"--{option.name}") == r"no 'a\n\u202eb\x1b[31m\ud800', see --out"
