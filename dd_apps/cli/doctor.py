"""`doctor`: what this machine has, what is missing, and what to type about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from importlib import metadata
from typing import Any

from dd_apps.cli.options import Json
from dd_apps.cli.terminal import Answer, Page
from dd_apps.report.tables import Table, human_bytes
from dd_core import artefacts
from dd_core.config import Config

_BROKEN = 4
_ROOM = 1 << 30  # bytes of free disk under which a run is likely to fail

_EXTRAS = (
    ("avalanche", "continual", "continual-learning scenarios, `dd-apps quickstart`"),
    ("timm", "transfer", "networks called timm:NAME"),
    ("nni", "nas", "architecture search"),
    ("ray", "ray", "--parallel ray"),
)


class Check(Config):
    """One thing that was looked at. `needed` things that are not `ok` make the verb fail."""

    name: str
    found: str
    ok: bool = True
    needed: bool = True
    advice: str = ""


def doctor(*, as_json: Json = False) -> Answer:
    """Check this machine: versions, devices, memory, cache, optional parts."""
    checks = [*_software(), *_machine(), *_cache(), *_extras()]
    well = all(check.ok for check in checks if check.needed)
    fields = {"ok": well, "checks": [check.model_dump() for check in checks]}
    return Answer(fields, lambda page: _show(page, checks, well=well), exit_code=0 if well else _BROKEN)


def _software() -> list[Check]:
    versions = [_version(package) for package in ("torch", "torchvision", "numpy", "scikit-learn")]
    return [
        Check(name="dd-apps", found=_installed("dd-apps")),
        Check(name="python", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *versions,
    ]


def _version(package: str) -> Check:
    try:
        return Check(name=package, found=metadata.version(package))
    except metadata.PackageNotFoundError:
        return Check(name=package, found="missing", ok=False, advice="pip install dd-apps")


def _machine() -> list[Check]:
    try:
        from dd_core import device
    except ImportError as error:
        return [Check(name="device", found=f"torch cannot be imported: {error}", ok=False, advice="reinstall torch")]
    facts = device.hardware(device.resolve("auto"))
    return [
        Check(name="cpu", found=f"{facts['cpu']}, {os.cpu_count()} cores"),
        Check(name="gpu", found=facts.get("gpu", "none; everything runs on the CPU"), needed=False),
        Check(name="memory", found=human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))),
    ]
