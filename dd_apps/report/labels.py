"""Places for the names of points in a plot, so that no name hides another; geometry alone, in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

# right of the mark first: a reader goes from the mark to its name
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_DISTANCES = (9, 15, 22, 32, 44, 58, 75, 95, 120, 150)
_CROSSING = 25  # penalty, in pixels of distance, for a name that lies on an error bar


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that both rectangles share, in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def within(self, other: Box) -> bool:
        """Whether this rectangle lies wholly inside `other`."""
        inside = other.left <= self.left and self.right <= other.right
        return inside and other.bottom <= self.bottom and self.top <= other.top


def placed(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    within: Box,
    marks: Sequence[Box],
    bars: Sequence[Box] = (),
) -> list[Box]:
    """For the name of each point, a box of the name's size near the point, over no other name and none of the `marks`.

    A box lies on `bars` only if every place beside them is much farther off. If no place is free, the least covered
    place is taken. All boxes are `within` the plot, unless a name is larger than the plot.
    """
    boxes: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        ways = product(_DISTANCES, _DIRECTIONS)
        places = [(distance, _beside(point, size, way, distance)) for distance, way in ways]
        inside = [(distance, box) for distance, box in places if box.within(within)] or places

        def cost(place: tuple[float, Box]) -> tuple[float, float]:
            distance, box = place
            hidden = sum(box.overlap(other) for other in (*boxes, *marks))
            return hidden, distance + _CROSSING * sum(box.overlap(bar) > 0 for bar in bars)

        boxes.append(min(inside, key=cost)[1])
    return boxes


def _beside(point: tuple[float, float], size: tuple[float, float], way: tuple[int, int], distance: float) -> Box:
    """The box of `size` at `distance` pixels from the point, to one of eight sides."""
    (x, y), (width, height) = point, size
    left = x - width / 2 + way[0] * (distance + width / 2)
    bottom = y - height / 2 + way[1] * (distance + height / 2)
    return Box(left, bottom, left + width, bottom + height)
