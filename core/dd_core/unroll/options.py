"""The option of methods with inner steps to compile or capture the steps. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Compile = Annotated[
    bool | None,
    Field(
        exclude_if=lambda compile: compile is None,
        description="whether inner steps are compiled on a CPU, which takes a minute at the start and a C++ compiler, "
        "or captured as CUDA graphs on a GPU; both make them faster, and need gradient adjoint, tesla, or auto, which "
        "is adjoint then; none: captured on a GPU, not compiled on a CPU",
    ),
]


def require_pairs(gradient: str, *, compile: bool | None) -> None:
    """Raise `ValueError` where inner steps are to be compiled whose gradient reaches over several steps."""
    if compile and gradient in ("full", "truncated"):
        raise ValueError(
            f"compile makes single inner steps fast, and gradient '{gradient}' needs the graph of several; give "
            "gradient adjoint, or leave out compile"
        )
