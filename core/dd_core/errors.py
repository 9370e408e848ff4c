"""What can go wrong, and the exit code of each kind."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# marks around an option in the text of an error; they stay where another error wraps that text
_BEGIN, _END = _MARKS = ("\x02", "\x03")
_OPTIONS = re.compile(f"{_BEGIN}([\\w.]+)(?:=([^{_END}]*))?{_END}")


@dataclass(frozen=True)
class Option:
    """An option within the text of an error, by its name in Python, and the value that the error advises, if any.

    The engine does not know whether a program, a command line or a scenario called it. So it writes a mark, which
    `DDError.spelled` replaces: `--image-size 64` for a command line, `image_size=64` for a scenario.
    """

    name: str
    value: bool | int | float | str | None = None

    def __str__(self) -> str:
        value = "" if self.value is None else f"={json.dumps(self.value)}"
        return f"{_BEGIN}{self.name}{value}{_END}"


OUT = Option("out")  # where a result goes
FRESH = Option("fresh", True)  # replace what an earlier run left


def in_python(option: Option) -> str:
    """An option as an argument of a function: `image_size=64`."""
    return option.name if option.value is None else f"{option.name}={option.value!r}"


class DDError(Exception):
    """A failure with one clear line for the user and an exit code for the shell.

    `str` gives the line with its options as arguments of Python functions.
    """

    exit_code = 1

    @property
    def text(self) -> str:
        """The line with its options marked, for another error that repeats it: `UserError(f"{path}: {error.text}")`."""
        return self.args[0] if self.args else ""

    def spelled(self, spell: Callable[[Option], str]) -> str:
        """The line with each option as `spell` writes it; unprintable characters, from a file's text, are escaped."""
        line = _OPTIONS.sub(lambda mark: spell(_option(mark[1], mark[2])), self.text)
        return "".join(char if char.isprintable() or char in _MARKS else _escape(char) for char in line)

    def __str__(self) -> str:
        return self.spelled(in_python)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _option(name: str, value: str | None) -> Option:
    return Option(name) if value is None else Option(name, json.loads(value))


class UserError(DDError):
    """The user's input cannot be used: a wrong name, key, file, size or data set."""

    exit_code = 2


class NotInstalled(UserError, ImportError):
    """A package of an extra is missing; programs that can do without the package catch `ImportError`."""


class Diverged(DDError):
    """A loss, gradient or learned value stopped being finite."""

    exit_code = 3


class OutOfResources(DDError):
    """Memory, disk space or the allowed time ran out."""

    exit_code = 4


class Interrupted(DDError):
    """A signal asked the run to stop; it stopped at a step's end and can be resumed."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int]]:
        # an exception is unpickled (out of a worker process) by calling its class with `args`: the message alone
        return type(self), (self.text, self.exit_code - 128)


def nearest(given: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `given`, or an empty string."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown_name(what: str, given: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name: it says the given name, the nearest known name, and all known names."""
    known = sorted(known)
    return UserError(f"unknown {what} '{given}'{nearest(given, known)} (known: {', '.join(known)})")


def require_finite(**values: float) -> None:
    """Raise `Diverged` naming the first value that is not finite.

    A method calls this after computing its loss and gradients and before using them, so that the state in a
    checkpoint is always finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {float(value)}; the run stopped before this update")
