"""Canonical values, and errors that name the key."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from dd_core.config import Config, canonical, decode, describe, difference, digest
from dd_core.errors import UserError


class Inner(Config):
    rate: float = Field(default=0.1, gt=0, description="rate, per step")
    kind: Literal["a", "b"] = Field(default="a", description="which")


class Outer(Config):
    steps: int = Field(description="how many")
    inner: Inner = Field(default=Inner(), description="more")
    sizes: tuple[int, ...] = Field(default=(1, 2), description="pixels")


def test_lists_become_tuples_and_integers_floats():
    made = decode(Outer, {"steps": 1, "sizes": [3, 4], "inner": {"rate": 2}})
    assert made.sizes == (3, 4)
    assert made.inner.rate == 2.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"steps": 1, "step": 2}, "f.toml: method.step: unknown key; did you mean 'steps'?"),
        ({"steps": 1, "inner": {"rat": 2}}, "f.toml: method.inner.rat: unknown key; did you mean 'rate'?"),
        ({"stesp": 1}, "f.toml: method.stesp: unknown key; did you mean 'steps'?"),
        ({}, "f.toml: method.steps: required, but not given"),
        ({"steps": "3"}, "f.toml: method.steps: input should be a valid integer (given: '3')"),
        ({"steps": 1.5}, "f.toml: method.steps: input should be a valid integer (given: 1.5)"),
        ({"steps": 1, "inner": {"rate": 0}}, "f.toml: method.inner.rate: input should be greater than 0 (given: 0)"),
        ({"steps": 1, "inner": {"kind": "c"}}, "f.toml: method.inner.kind: input should be 'a' or 'b' (given: 'c')"),
        ({"steps": True}, "f.toml: method.steps: input should be a valid integer (given: True)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data, message: str):
    with pytest.raises(UserError) as caught:
        decode(Outer, data, where="f.toml", key="method")
    assert str(caught.value) == message


def test_a_value_has_one_text_and_one_digest():
    one = decode(Outer, {"steps": 1, "sizes": [1, 2]})
    same = decode(Outer, {"sizes": [1, 2], "steps": 1})
    assert canonical(one) == '{"inner":{"kind":"a","rate":0.1},"sizes":[1,2],"steps":1}'
    assert digest(one) == digest(same) != digest(decode(Outer, {"steps": 2}))


def test_what_is_not_a_number_has_no_text():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"x": float("nan")})
    with pytest.raises(UserError, match="finite"):
        decode(Inner, {"rate": float("inf")})


def test_difference_is_key_by_key():
    old = {"steps": 1, "inner": {"rate": 0.1, "kind": "a"}, "gone": 1}
    new = {"steps": 2, "inner": {"rate": 0.1, "kind": "b"}, "come": 1}
    assert difference(old, new) == ["come: None -> 1", "gone: 1 -> None", "inner.kind: 'a' -> 'b'", "steps: 1 -> 2"]


def test_describe_tells_type_default_and_meaning():
    rows = {row["key"]: row for row in describe(Outer)}
    assert rows["steps"] == {"key": "steps", "type": "int", "default": "required", "meaning": "how many"}
    assert (rows["sizes"]["type"], rows["sizes"]["default"]) == ("list of int", "[1, 2]")
    assert describe(Inner)[1]["type"] == '"a" | "b"'


def test_none_is_nothing_for_a_key_that_takes_no_text():
    class Keys(Config):
        threshold: float | None = 1.0
        nested: Inner | None = None
        name: str | None = "some"
        strategy: str = "all"

    found = decode(Keys, {"threshold": "none", "nested": "none", "name": "none", "strategy": "none"})
    assert (found.threshold, found.nested, found.name, found.strategy) == (None, None, "none", "none")
    with pytest.raises(UserError, match="threshold: input should be a valid number"):
        decode(Keys, {"threshold": "nothing"})
