"""`doctor`: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from importlib import metadata

import dd_core
from dd_apps.cli.options import Json
from dd_apps.cli.terminal import Answer, Page
from dd_apps.report.tables import Table, human_bytes
from dd_core import artefacts
from dd_core.config import Config
from dd_core.errors import UserError

_BROKEN = 4
_ROOM = 1 << 30  # bytes of free disk under which a run is likely to fail

_EXTRAS = (
    ("avalanche", "continual", "continual-learning scenarios, `dd-apps quickstart`"),
    ("timm", "timm", "networks called timm:NAME"),
    ("nni", "nas", "dd-apps nas rank and nas search"),
    ("ray", "ray", "--parallel ray"),
    ("distributed", "dask", "--parallel dask"),
)


class Check(Config):
    """One check of the machine. The verb fails if a `needed` check is not `ok`."""

    name: str
    found: str
    ok: bool = True
    needed: bool = True
    advice: str = ""


def doctor(*, as_json: Json = False) -> Answer:
    """Check this machine and its installation.

    The exit code is 4 if something is missing that dd-apps needs.
    """
    checks = [*_software(), *_machine(), *_cache(), *_extras()]
    well = all(check.ok for check in checks if check.needed)
    fields = {"ok": well, "checks": [check.model_dump() for check in checks]}
    return Answer(fields, lambda page: _show(page, checks, well=well), exit_code=0 if well else _BROKEN)


def _software() -> list[Check]:
    packages = ("torch", "torchvision", "numpy", "safetensors", "pillow", "scikit-learn")
    return [
        Check(name="dd-apps", found=dd_core.__version__),
        Check(name="python", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_version(package) for package in packages),
    ]


def _version(package: str) -> Check:
    try:
        return Check(name=package, found=metadata.version(package))
    except metadata.PackageNotFoundError:
        return Check(name=package, found="missing", ok=False, advice="pip install dd-apps")


def _machine() -> list[Check]:
    try:
        from dd_core.system import device
    except ImportError as error:
        return [Check(name="device", found=f"torch cannot be imported: {error}", ok=False, advice="reinstall torch")]
    facts = device.hardware(device.resolve("auto"))
    return [
        Check(name="cpu", found=f"{facts['cpu']}, {os.cpu_count()} cores"),
        Check(name="gpu", found=facts.get("gpu", "none; everything runs on the CPU"), needed=False),
        Check(name="memory", found=human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))),
    ]


def _cache() -> list[Check]:
    try:
        folder = artefacts.cache_folder()
    except UserError as error:
        return [Check(name="cache", found=str(error), ok=False, advice="set DD_APPS_CACHE")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "set DD_APPS_CACHE to a folder that can be written"
        return [Check(name="cache", found=f"{folder}: {error.strerror}", ok=False, advice=advice)]
    free = shutil.disk_usage(folder).free
    return [
        Check(name="cache", found=f"{folder}, can be written"),
        Check(
            name="disk",
            found=f"{human_bytes(free)} free",
            ok=free >= _ROOM,
            advice="" if free >= _ROOM else f"free {human_bytes(_ROOM)}, or set DD_APPS_CACHE to another disk",
        ),
    ]


def _extras() -> list[Check]:
    return [_extra(package, extra=extra, enables=enables) for package, extra, enables in _EXTRAS]


def _extra(package: str, *, extra: str, enables: str) -> Check:
    there = importlib.util.find_spec(package) is not None
    advice = "" if there else f"pip install 'dd-apps[{extra}]'"
    found = f"{'present' if there else 'missing'}: {enables}"
    return Check(name=package, found=found, ok=there, needed=False, advice=advice)


def _show(page: Page, checks: list[Check], *, well: bool) -> None:
    rows = [
        {
            "": "ok" if check.ok else "BAD" if check.needed else "-",
            "what": check.name,
            "found": check.found,
            "to do": check.advice,
        }
        for check in checks
    ]
    page.table(Table("this machine", rows))
    page.line("all that is needed is there" if well else "something that is needed is missing; see above")
