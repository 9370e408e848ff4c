"""Commands that are printed to be pasted, and streams that cannot say everything."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from dd_apps.cli.standard import Written, encodable
from dd_apps.cli.terminal import as_argument, shell_line

WORDS = ["plain", "with space", "it's", "$HOME", "", "a\nb", "\x1b[31m", "caf\udce9", "back\\new\n'"]


def test_a_shell_reads_the_words_back():
    line = shell_line(["printf", r"%s\0", *WORDS])
    assert line.isprintable()
    read = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert read.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]


def test_plain_words_are_quoted_as_usual():
    assert shell_line(WORDS[:5]) == shlex.join(WORDS[:5])


@pytest.mark.parametrize(
    ("file", "word"),
    [("-x.safetensors", "./-x.safetensors"), ("--", "./--"), ("a/-x", "a/-x"), ("/tmp/a b", "/tmp/a b")],
)
def test_a_file_is_no_option(file: str, word: str):
    assert as_argument(Path(file)) == word


def of(encoding: str, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)


@pytest.mark.parametrize(
    ("text", "stream", "written"),
    [
        ("1 ± 2 é", of("utf-8"), "1 ± 2 é"),
        ("1 ± 2 é", of("latin-1"), "1 ± 2 é"),
        ("1 ± 2 é", of("ascii"), "1 +- 2 \\xe9"),
        ("€ é", of("latin-1"), "\\u20ac é"),
        ("a\udce9", of("ascii", "surrogateescape"), "a\udce9"),
    ],
)
def test_what_an_encoding_lacks_is_spelt(text: str, stream: io.TextIOWrapper, written: str):
    assert encodable(text, stream) == written


class Full(io.StringIO):
    """A stream that takes ten characters in all."""

    calls = 0

    def write(self, text: str) -> int:
        self.calls += 1
        if len(self.getvalue()) + len(text) > 10:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_the_first_failure_is_kept_and_nothing_is_tried_after_it():
    stream = Full()
    written = Written(stream)
    assert [written.write(text) for text in ("eight...", "four", "x")] == [8, 4, 1]
    written.flush()
    assert written.failure is not None
    assert (written.failure.errno, stream.getvalue(), stream.calls) == (28, "eight...", 2)
    assert written.encoding == stream.encoding
