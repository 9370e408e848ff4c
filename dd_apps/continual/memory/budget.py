"""The budget of a memory, in images, in bytes, or both: the number of images of a class that it has room for.

A budget is either shared by the classes seen so far, so that each class keeps less as more classes arrive (`max_size`,
`max_bytes`), or it is for each class, so that the memory grows (`images_per_class`, `bytes_per_class`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dd_core.errors import UserError


@dataclass(frozen=True)
class Budget:
    """Several budgets, of which the tightest holds; None is no limit."""

    max_size: int
    images_per_class: int | None = None
    max_bytes: int | None = None
    bytes_per_class: int | None = None

    def check(self) -> None:
        """Raise `UserError` for a budget that no new memory may have; a resized memory may be smaller."""
        for name, value in vars(self).items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise UserError(f"{name} is {str(value)[:40]!r} (a {type(value).__name__}); give an int")
        if self.images_per_class is None and not self.counts_bytes:
            raise UserError("say how large the memory is: images_per_class, max_bytes or bytes_per_class")
        if self.images_per_class is not None and not 1 <= self.images_per_class <= self.max_size:
            raise UserError(
                f"images_per_class must be from 1 to max_size ({self.max_size}), not {self.images_per_class}"
            )
        for name in ("max_size", "max_bytes", "bytes_per_class"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")

    @property
    def counts_bytes(self) -> bool:
        """Whether a budget is in bytes, so that the size of an image matters."""
        return self.max_bytes is not None or self.bytes_per_class is not None

    def room(self, classes: int, image_bytes: int) -> int:
        """Images of a class that a memory of `classes` classes keeps, of `image_bytes` bytes each with its label.

        Raises `UserError` if not even one image of a class fits.
        """
        shared = max(1, classes)
        rooms = [self.max_size // shared]
        if self.images_per_class is not None:
            rooms.append(self.images_per_class)
        if rooms[0] < 1:
            size = self.max_size
            raise UserError(f"a memory of {size} images has no room for {classes} classes; make max_size {classes}")
        if self.max_bytes is not None:
            rooms.append(self.max_bytes // (shared * image_bytes))
        if self.bytes_per_class is not None:
            rooms.append(self.bytes_per_class // image_bytes)
        if min(rooms) < 1:
            raise self._too_small(classes, image_bytes)
        return min(rooms)

    def fitting(self, most: int, classes: int, new: int, held: Callable[[int], int], made: Callable[[int], int]) -> int:
        """The most images of a class, at most `most`, with which the memory is within the budgets in bytes.

        held(n): bytes of the whole memory of `classes` classes if each keeps at most n images; made(n): likewise, bytes
        of the `new` classes that have just arrived. Raises `UserError` where not even one image fits.
        """
        for count in range(most, 0, -1):
            shared = self.max_bytes is None or held(count) <= self.max_bytes
            own = self.bytes_per_class is None or made(count) <= self.bytes_per_class * new
            if shared and own:
                return count
        if self.bytes_per_class is not None and made(1) > self.bytes_per_class * new:
            raise self._too_small(new, -(-made(1) // new))
        raise self._too_small(classes, -(-held(1) // classes))

    def _too_small(self, classes: int, image_bytes: int) -> UserError:
        if self.bytes_per_class is not None and self.bytes_per_class < image_bytes:
            return UserError(
                f"a memory of {self.bytes_per_class} bytes a class has no room for an image of {image_bytes} bytes; "
                f"make bytes_per_class {image_bytes}"
            )
        return UserError(
            f"a memory of {self.max_bytes} bytes has no room for {classes} classes, {image_bytes} bytes an image; make "
            f"max_bytes {classes * image_bytes}"
        )
