"""Helper modules of this folder are importable, here and in the processes that the tests start."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from killing import Server

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def server() -> Server:
    """Starts processes that have everything imported: a fork takes milliseconds, and importing torch seconds."""
    from killing import Server

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing", "dd_apps.cli"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        starter = Server(context)
        starter.run(os.getpid)
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return starter
