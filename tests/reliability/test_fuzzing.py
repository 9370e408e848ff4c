"""Files with changes by chance: refused in one line or read, without a traceback, code that runs, or much memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fuzzing import KINDS, outcome, same

FILES = 25  # of each kind; `make bench-hostile` has thousands
# at least so many of them are refused; JPEG files have no checksum, and most changes leave a picture that can be shown
REFUSED = dict.fromkeys(KINDS, FILES / 2) | {"import sre2l": FILES / 5}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_refused_in_a_line_or_read(tmp_path: Path, kind: str):
    folder, canary = tmp_path / "files", tmp_path / "canary"
    folder.mkdir()
    KINDS[kind].write(folder)
    pristine = KINDS[kind].read(folder)
    outcomes = {number: outcome(kind, number, folder, canary, pristine) for number in range(FILES)}
    wrong = {number: one for number, one in outcomes.items() if one.verdict not in ("refused", "read")}
    assert wrong == {}
    assert Counter(one.verdict for one in outcomes.values())["refused"] > REFUSED[kind]
    assert same(KINDS[kind].read(folder), pristine)
