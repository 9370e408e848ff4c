"""The only place that knows disk formats: containers, what their headers say, nested states, journals of folders."""

from __future__ import annotations

from dd_core.store.files import (
    ARTEFACT,
    CHECKPOINT,
    DISK_FULL,
    SET,
    append_line,
    container_bytes,
    disk_errors,
    file_sha256,
    keep_lines,
    parse_set,
    read_container,
    read_json,
    read_lines,
    read_set,
    read_state,
    remove_leftovers,
    set_bytes,
    target_of,
    write_bytes,
    write_container,
    write_json,
    write_set,
    write_state,
)
from dd_core.store.headers import Format
from dd_core.store.journal import Journal

__all__ = [
    "ARTEFACT",
    "CHECKPOINT",
    "DISK_FULL",
    "SET",
    "Format",
    "Journal",
    "append_line",
    "container_bytes",
    "disk_errors",
    "file_sha256",
    "keep_lines",
    "parse_set",
    "read_container",
    "read_json",
    "read_lines",
    "read_set",
    "read_state",
    "remove_leftovers",
    "set_bytes",
    "target_of",
    "write_bytes",
    "write_container",
    "write_json",
    "write_set",
    "write_state",
]
