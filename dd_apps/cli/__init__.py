"""`dd-apps`: what all verbs have in common, which is exit codes, error lines and `--json`.

Nothing in this package imports torch before a verb that computes is called: `--help`, `list`, `inspect` and
`verify` answer at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext

import typer

from dd_apps.cli.terminal import Answer, Page, Session, stdout_kept_clean
from dd_apps.cli.verbs import application
from dd_apps.report.tables import printable
from dd_core.errors import DDError, OutOfResources

_INTERRUPTED = 130
_BUG = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    session = Session(arguments=tuple(given), json="--json" in given)
    try:
        with stdout_kept_clean() if session.json else nullcontext():
            outcome = _call(given or ["--help"], session)
        return _answer(outcome, session)
    except (BrokenPipeError, SystemExit) as error:
        # whoever read our output has seen enough; typer and rich turn that into an exit with code 1
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # python would complain again when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _call(arguments: Sequence[str], session: Session) -> Answer | int:
    """The verb's answer, or an exit code where everything has been said."""
    try:
        outcome = application()(args=list(arguments), prog_name="dd-apps", standalone_mode=False, obj=session)
        # an integer is what typer itself has to say: 0 after --help, 130 after Ctrl-C
        return _interrupted(session) if outcome == _INTERRUPTED else outcome
    except DDError as error:
        return _failure(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(session)
    except BrokenPipeError:
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors, which have no public common class
            return _failure(_usage(error), 2)
        if (reason := _exhausted(error)) is not None:
            return _failure(reason, OutOfResources.exit_code)
        traceback.print_exc()
        return _failure(f"{type(error).__name__}: {error}; this is a bug in dd-apps, please report it", _BUG)


def _interrupted(session: Session) -> Answer:
    return _failure(f"interrupted; to go on, or to start again: {session.resume_command()}", _INTERRUPTED)


def _exhausted(error: Exception) -> str | None:
    """What ran out, where an exception means that memory or disk did."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'disk'}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "out of memory"
    if "torch" in sys.modules:
        from dd_core.device import is_out_of_memory

        return f"out of memory: {error}" if is_out_of_memory(error) else None
    return None


def _usage(error: Exception) -> str:
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
    sys.stdout.flush()
    return outcome.exit_code
