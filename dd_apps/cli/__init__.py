"""`dd-apps`: the exit codes, error lines and `--json` that all verbs share.

Nothing in this package imports torch before a verb that computes is called: `--help`, `list`, `inspect` and
`verify` answer at once.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType

import typer

from dd_apps.cli import standard
from dd_apps.cli.options import as_flag
from dd_apps.cli.terminal import Answer, Page, Session, stdout_kept_clean
from dd_apps.cli.verbs import application
from dd_apps.report.tables import printable
from dd_core.errors import DDError, Interrupted, OutOfResources, UserError
from dd_core.store import DISK_FULL
from dd_core.system.paths import no_home

# the loader's words for a library that does not fit into memory
_UNLOADED = ("failed to map segment", "cannot allocate memory", "cannot map zero-fill pages")
_SPENT = (*DISK_FULL, errno.EIO)
# errors of the system that a user can mend; a missing file is not among them, since our own checks must find it
_SYSTEMS = (*_SPENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_INTERRUPTED = 128 + signal.SIGINT
_BUG = 1
_RESUMABLE = ("quickstart", "run", "distill", "evaluate", "nas")


class Terminated(BaseException):
    """SIGTERM as an exception; no `except Exception` catches it, as with KeyboardInterrupt."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    session = Session(arguments=tuple(given), json="--json" in given)
    with standard.taken() as stdout:
        with stdout_kept_clean() if session.json else nullcontext():
            outcome = _call(given or ["--help"], session)
        return _delivered(_answer(outcome, session), stdout)


def _call(arguments: Sequence[str], session: Session) -> Answer | int:
    """The verb's answer, or an exit code where nothing is left to print."""
    try:
        with _sigterm_raises():
            outcome = application()(args=list(arguments), prog_name="dd-apps", standalone_mode=False, obj=session)
        # an integer is typer's own exit code: 0 after --help, 130 after Ctrl-C
        return _interrupted(session, signal.SIGINT) if outcome == _INTERRUPTED else outcome
    except (Exception, KeyboardInterrupt, Terminated) as error:
        return _explained(error, session)


def _explained(error: BaseException, session: Session) -> Answer:
    """Print one line that says what stopped a verb, and a traceback above the line if it is a bug of ours."""
    if (number := _signal_behind(error)) is not None:
        return _interrupted(session, number)
    if isinstance(error, DDError):
        return _failure(error.spelled(as_flag), error.exit_code)
    if hasattr(error, "format_message"):  # typer's usage errors, which have no public common class
        return _failure(_usage(error), 2)
    if (reason := _environments(error)) is not None:
        return _failure(reason.text, reason.exit_code)
    traceback.print_exception(error)
    return _failure(f"{type(error).__name__}: {error}; this is a bug in dd-apps, please report it", _BUG)


def _signal_behind(error: BaseException | None) -> signal.Signals | None:
    """The signal that led to an error, or None. An interrupted library may raise an error of its own instead."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, typer.Abort)):
            return signal.SIGINT
        if isinstance(error, Terminated):
            return signal.SIGTERM
        error = error.__context__
    return None


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block, in the main thread, the first SIGTERM raises `Terminated`; later ones are ignored."""

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second signal must not disturb the clean-up
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        # None: the earlier handler was not installed from Python, and Python cannot restore it
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _interrupted(session: Session, number: signal.Signals) -> Answer:
    then = "to go on" if session.verb in _RESUMABLE else "to start again"
    error = Interrupted(f"interrupted; {then}: {session.resume_command()}", number)
    return _failure(error.spelled(as_flag), error.exit_code)


def _environments(error: BaseException) -> DDError | None:
    """The error line for a failure of the machine: memory or disk that ran out, a file that cannot be written or read.

    None for any other exception.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutOfResources("out of memory")
    if isinstance(error, ImportError) and any(sign in str(error) for sign in _UNLOADED):
        return OutOfResources(f"out of memory while loading libraries ({error}); see `ulimit -v`")
    if isinstance(error, OSError) and error.errno in _SYSTEMS:
        line = f"{error.filename or 'disk'}: {error.strerror}"
        return OutOfResources(line) if error.errno in _SPENT else UserError(line)
    if isinstance(error, RuntimeError) and "determine home directory" in str(error):  # a library's own folder
        return UserError(f"{no_home()}; set HOME to a folder that can be written")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return OutOfResources("the system starts no more threads; see `ulimit -u` and `ulimit -v`")
    if "torch" in sys.modules:
        from dd_core.system.device import is_out_of_memory

        return OutOfResources(f"out of memory: {error}") if is_out_of_memory(error) else None
    return None


def _usage(error: BaseException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context else message


def _failure(message: str, exit_code: int) -> Answer:
    line = printable(message)
    print(f"error: {line}", file=sys.stderr)
    return Answer({"error": line, "exit_code": exit_code}, show=lambda page: None, exit_code=exit_code)


def _answer(outcome: Answer | int, session: Session) -> int:
    if isinstance(outcome, int):
        return outcome
    if session.json:
        print(json.dumps(outcome.fields))
    else:
        outcome.show(Page(sys.stdout))
    return outcome.exit_code


def _delivered(exit_code: int, stdout: standard.Written) -> int:
    """The final exit code: an answer that a full disk lost is an error, a pipe that its reader closed is none."""
    stdout.flush()
    if exit_code or stdout.failure is None or isinstance(stdout.failure, BrokenPipeError):
        return exit_code
    reason = stdout.failure.strerror
    print(f"error: stdout: {reason}; the answer is lost, and what was written to files is kept", file=sys.stderr)
    return OutOfResources.exit_code
