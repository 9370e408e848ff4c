"""Paths as a user gives them, with `~` for a home folder."""

from __future__ import annotations

import os
from pathlib import Path

from dd_core.errors import UserError


def expanded(path: str, *, option: str = "") -> Path:
    """`path` with `~` and `~name` as home folders; `option` is what the user gave it as, for the error.

    Raises `UserError` where there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0].removeprefix("~")
        reason = f"there is no user '{user}'" if user else no_home()
        raise UserError(f"{option}{path}: {reason}; give the whole path of the folder") from None


def home() -> Path:
    """The user's home folder; raises `UserError` where the system knows none, or the environment says nonsense."""
    advice = "set DD_APPS_CACHE to a folder for caches and downloads"
    try:
        folder = Path.home()
    except RuntimeError:
        raise UserError(f"{no_home()}; {advice}") from None
    if not os.path.isabs(os.environ.get("HOME", folder)):
        raise UserError(f"HOME='{os.environ['HOME']}' is no whole path of a folder; {advice}")
    return folder


def no_home() -> str:
    """The error text for a missing home folder, as in a container that runs under an arbitrary user number."""
    return f"user {os.getuid()} has no home folder: HOME is not set, and the system does not know the user"
