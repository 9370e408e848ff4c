"""What several unit tests share; helper modules of this folder are importable."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dd_apps.cli import main

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def call_json(call) -> Callable[..., dict[str, Any]]:
    """Run a command line with --json that succeeds: the object, which is all that is on stdout."""

    def run(*words: object) -> dict[str, Any]:
        code, out, err = call(*words, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return run
