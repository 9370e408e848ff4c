"""`dd-apps`: what all verbs have in common, which is exit codes, error lines and `--json`.

Nothing in this package imports torch before a verb that computes is called: `--help`, `list`, `inspect` and
`verify` answer at once.
"""

from __future__ import annotations

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
from dd_core.errors import DDError

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
    except BrokenPipeError:
        # whoever read our output has seen enough; python would complain again when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _call(arguments: Sequence[str], session: Session) -> Answer | int:
    """The verb's answer, or an exit code where everything has been said."""
    try:
        outcome = application()(args=list(arguments), prog_name="dd-apps", standalone_mode=False, obj=session)
        # an integer is what typer itself has to say: 0 after --help, 130 after Ctrl-C
        return _failure("interrupted", outcome) if isinstance(outcome, int) and outcome else outcome
    except DDError as error:
        return _failure(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _failure("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors, which have no public common class
            return _failure(_usage(error), 2)
        traceback.print_exc()
        return _failure(f"{type(error).__name__}: {error}; this is a bug in dd-apps, please report it", _BUG)


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
