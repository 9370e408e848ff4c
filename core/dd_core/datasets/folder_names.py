"""Which files in a folder are images, and which folders hold none of the user's images, mostly by their names.

Hidden files, thumbnails and other things that systems leave behind are passed over, and so are folders that this
library writes: the folder of a run beside its set, the results of a scenario, the cache.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from dd_core import artefacts
from dd_core.datasets.decoding import begins_as_image
from dd_core.errors import UserError

SUFFIXES = (  # without the dot, sorted
    *("apng", "avif", "avifs", "bmp", "dib", "gif", "icb", "ico", "j2c", "j2k", "jfif", "jp2", "jpc", "jpe", "jpeg"),
    *("jpf", "jpg", "jpx", "mpo", "pbm", "pcx", "pgm", "png", "pnm", "ppm", "qoi", "sgi", "tga", "tif", "tiff", "vda"),
    *("vst", "webp"),
)
_JUNK_FOLDERS = frozenset(
    {"__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found"}
    | {"system volume information", "@recently-snapshot", "found.000"}
)
_JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
# "photo.jpg_large", "photo.jpg?w=100" and "photo.png " are what browsers and scripts save; "photo.jpg~" and exiftool's
# "photo.jpg_original" are copies of a file that is still there
_MANGLED = re.compile(rf"\.(?:{'|'.join(SUFFIXES)})(?!_original)[\s_:?!@&=%-][^.]*$")
_SUFFIX = re.compile(r"\.([a-z][a-z0-9_+~-]{0,15})$")
_RUN_FILES = frozenset({"run.json", "metrics.jsonl", "scenario.json"})
_CHECKPOINT = re.compile(r"checkpoint-\d+\.safetensors")
_MAGIC_BYTES = 12


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in `folder` that may hold images, sorted; raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_foreign(Path(entry.path)))


def has_images(folder: Path) -> bool:
    """Whether image files lie directly in `folder`; raises OSError."""
    return any(is_image(name, folder) for name in visible_files(folder))


def visible_files(folder: Path) -> list[str]:
    """The names of the files directly in `folder` that are not passed over; raises OSError."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.is_dir() and not is_passed_over(entry.name)]


def is_image(name: str, folder: Path) -> bool:
    """Whether a file is an image: by its suffix or, where that is missing or mangled, by its first bytes."""
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        return True
    if suffix and not _MANGLED.search(name.lower()):
        return False
    path = folder / name
    try:
        if not path.is_file():  # opening a named pipe would wait for somebody to write to it
            return False
        with open(path, "rb") as file:
            return begins_as_image(file.read(_MAGIC_BYTES))
    except OSError:
        return False


def suffix_of(name: str) -> str:
    """The suffix of a name, in lower case and without the dot; "" where numbers or phrases follow the last dot."""
    match = _SUFFIX.search(name.lower())
    return match[1] if match else ""


def is_passed_over(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or what a system leaves behind."""
    lower = name.lower()
    return lower.startswith(".") or lower in _JUNK_FOLDERS or lower in _JUNK_FILES


def is_foreign(folder: Path) -> bool:
    """Whether `folder` is passed over, is the cache, or holds results of this library; raises OSError."""
    return is_passed_over(folder.name) or _is_cache(folder) or _holds_results(folder)


def _is_cache(folder: Path) -> bool:
    try:
        return os.path.samefile(folder, artefacts.cache_folder())
    except (OSError, UserError):
        return False


def _holds_results(folder: Path) -> bool:
    """Whether `folder` is the folder of a run (a lock beside a run's files), or holds only sets and such folders."""
    with os.scandir(folder) as entries:
        if (folder / "lock").is_file():
            names = {entry.name for entry in entries}
            return names == {"lock"} or bool(names & _RUN_FILES) or any(map(_CHECKPOINT.fullmatch, names))
        some = False
        for entry in entries:
            some = True
            # a link may lead back to a folder above, and no run leaves links
            ours = entry.is_dir(follow_symlinks=False) and _holds_results(Path(entry.path))
            if not entry.name.endswith(".safetensors") and not ours:
                return False
    return some


# --- names in lines and manifests -------------------------------------------------------------------------------


def few(names: Sequence[str]) -> str:
    """The first three of many names, for an error line."""
    shown = ", ".join(f"'{printable(name)}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def printable(name: str) -> str:
    """A file name for an error line or a manifest: no undecodable bytes, no line breaks."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


def class_name(folder_name: str) -> str:
    """The class of a folder: its name in Unicode's composed form (NFC), in which most systems but macOS write it."""
    return unicodedata.normalize("NFC", folder_name)


def looks(name: str) -> str:
    """A name as a reader sees it: without characters that have no width, and with single spaces between words."""
    visible = "".join(letter for letter in class_name(name) if not _is_invisible(letter))
    return printable(" ".join(visible.split()))


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def counted(suffixes: Mapping[str, int]) -> str:
    """How many files have which suffix: "18 .heic, 2 without a suffix"."""
    parts = sorted(suffixes.items(), key=lambda part: (-part[1], part[0]))
    return ", ".join(f"{count:,} {'.' + suffix if suffix else 'without a suffix'}" for suffix, count in parts)
