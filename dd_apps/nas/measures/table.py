"""The zero-cost measures, and what each of them needs; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dd_core.errors import unknown_name

Need = Literal["shape", "images", "labels"]


@dataclass(frozen=True)
class Measure:
    """A zero-cost measure: name, description, and the arguments of its formula after the network, in order."""

    name: str
    description: str
    needs: tuple[Need, ...]  # "shape": shape of an image, whose pixels do not matter

    @property
    def needs_images(self) -> bool:
        """Whether the pixels of the images matter."""
        return "images" in self.needs

    @property
    def needs_labels(self) -> bool:
        """Whether the labels of the images matter."""
        return "labels" in self.needs


_MEASURES = (
    Measure("parameters", "number of the network's parameters", ()),
    Measure("flops", "multiply-accumulates that the network takes for one image in evaluation mode", ("shape",)),
    Measure(
        "synflow",
        "sum of |w dR/dw| over the weights w, R the sum of the outputs for an image of ones where all parameters are "
        "replaced by their absolute values and every norm is left out (Tanaka et al. 2020)",
        ("shape",),
    ),
    Measure(
        "jacob_cov",
        "how little the input gradients of different images correlate (Mellor et al. 2020, first version)",
        ("images",),
    ),
    Measure(
        "naswot",
        "log-determinant of the kernel that counts the ReLU units on which two images agree (Mellor et al. 2021)",
        ("images",),
    ),
    Measure(
        "snip",
        "sum of |w dL/dw| over the weights w, L the cross-entropy (Lee, Ajanthan and Torr 2019)",
        ("images", "labels"),
    ),
    Measure(
        "grad_norm",
        "sum over the layers of the Euclidean norm of the cross-entropy's gradient (Abdelfattah et al. 2021)",
        ("images", "labels"),
    ),
)


def names() -> tuple[str, ...]:
    """The names of all measures."""
    return tuple(measure.name for measure in _MEASURES)


def by_name(name: str) -> Measure:
    """The measure called `name`; raises `UserError` for an unknown name."""
    for measure in _MEASURES:
        if measure.name == name:
            return measure
    raise unknown_name("zero-cost measure", name, names())
