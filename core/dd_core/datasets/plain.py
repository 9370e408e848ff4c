"""`as_source`: what a program has at hand (arrays, a torch `Dataset`) as the real images that the engine computes with.

Pixels become uint8 and stay in memory. Data that could be read in two ways is refused, in one line that says what to
do; `LabelledImages` takes uint8 tensors as they are, without guessing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from dd_core.datasets.raw_pixels import ADVICE, require_visible, to_levels, to_uint8
from dd_core.distilled import DistilledSet
from dd_core.errors import Option, UserError
from dd_core.images import LabelledImages, Source
from dd_core.system import surroundings
from dd_core.system.surroundings.generators import generator_states, generators_kept

ACCEPTED = (
    "a pair (images, labels) of arrays, a torch Dataset of pairs (image, label), or what load_data and as_source return"
)
Images = Any  # whatever `as_source` takes
_OF_ITEMS = f"{ADVICE}; leave Normalize out of the transform, and convert images of other modes by image.convert('RGB')"
_MEMORY = 4 * 2**30
_READ_TWICE, _READ_AGAIN = 8, 32  # items read again: before all are read; afterwards, if nothing was drawn


@surroundings.own()
def as_source(
    data: Images,
    *,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    memory_limit: int = _MEMORY,
) -> Source:
    """Real images out of `data`: uint8 (N, C, H, W) in memory, with class indices and class names.

    data: a pair (images, labels) of NumPy arrays or tensors; images alone, for methods that use no labels; a torch
    `Dataset` of pairs (image, label), which is read once; or a `Source`, which is returned as it is. Arrays are
    N x C x H x W, or N x H x W for grey images, of uint8 or of floats in [0, 1]. Items of a `Dataset` are PIL images,
    uint8 arrays H x W x C, or tensors C x H x W of uint8 or of floats in [0, 1]. Labels are integers from 0, or words.

    classes: the names of the labels 0, 1, ...; by default those of the `Dataset`, or the labels themselves.
    name: what a set's provenance calls the images; a method does not mirror "digits", "mnist", "kmnist", "usps" and
    "svhn". By default the class of the `Dataset` in lower case, or "array". memory_limit: the most bytes that a
    `Dataset` may take as uint8.

    Raises `UserError` for anything else, and for what is doubtful: channels that come last, values beyond [0, 1] that
    are not levels from 0 to 255, classes without images, a `Dataset` whose items differ from one reading to the next.
    """
    if isinstance(data, Source):
        if classes is not None or name is not None:
            raise UserError(f"{data.name} has a name and classes already; leave out classes and name")
        return data
    return _read(data, what="data", classes=classes, like=(), name=name, memory_limit=memory_limit)


@surroundings.own()
def given(data: Images, *, what: str, like: Sequence[str] = (), part: bool = False) -> Source:
    """The argument `what` of a function as a source, see `as_source`; `like` names the classes where `data` does not.

    With `like`, classes may be without images, as those of test images may. With `part` (`data` is one experience of a
    stream, say) classes may be without images even where nothing names the classes; labels that are words are refused.
    """
    if isinstance(data, Source):
        return data
    return _read(data, what=what, classes=None, like=like, part=part, name=None, memory_limit=_MEMORY)


def _read(
    data: Any,
    *,
    what: str,
    classes: Sequence[str] | None,
    like: Sequence[str],
    part: bool = False,
    name: str | None,
    memory_limit: int,
) -> LabelledImages:
    names = None if classes is None else _names(classes)
    if _is_pair(data):
        known = tuple(like) if names is None else names
        return _of_arrays(*data, what=what, classes=known, part=part, name=name)
    if isinstance(data, (np.ndarray, Tensor)):
        if names is not None:
            raise UserError(f"{what} has images without labels, and {len(names)} classes; give a pair (images, labels)")
        return LabelledImages(torch.from_numpy(to_levels(_array(data, what), of=what)), None, (), name or "array")
    if not _is_dataset(data):
        raise UserError(f"{what} is {_kind(data)}; give {ACCEPTED}{_advice(data)}")
    return _of_dataset(
        data, what=what, classes=names, like=tuple(like), part=part, name=name, memory_limit=memory_limit
    )


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], (np.ndarray, Tensor))


def _is_dataset(data: Any) -> bool:
    known = isinstance(data, (str, bytes, Mapping, tuple, list, DataLoader, IterableDataset, DistilledSet))
    return not known and hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "columns")


def _kind(data: Any) -> str:
    return f"'{data[:40]}'" if isinstance(data, str) else f"a {type(data).__name__}"


def _advice(data: Any) -> str:
    if isinstance(data, str):
        return f"; a data set by its name or folder is load_data({data[:40]!r})"
    if isinstance(data, DataLoader):
        return "; give the DataLoader's attribute `dataset`"
    if isinstance(data, IterableDataset):
        return "; items are read by index, which an IterableDataset does not allow"
    return ""


def _names(classes: Sequence[str]) -> tuple[str, ...]:
    given: Sequence[Any] = classes
    if isinstance(classes, str) or not all(isinstance(name, str) for name in given):
        raise UserError(f"{Option('classes')} are a list of words, a name for each label; given: {str(classes)[:60]}")
    names = tuple(classes)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{Option('classes')} have the name '{twice[0]}' twice; give each class a name of its own")
    return names


# --- arrays ------------------------------------------------------------------------------------------------------


def _of_arrays(
    images: Any, labels: Any, *, what: str, classes: tuple[str, ...], part: bool, name: str | None
) -> LabelledImages:
    pixels = _array(images, what)
    indices, classes = _labels(labels, len(pixels), what=what, classes=classes, part=part)
    levels = to_levels(pixels, of=f"the images of {what}")
    return LabelledImages(torch.from_numpy(levels), torch.from_numpy(indices), classes, name or "array")


def _array(values: Any, what: str) -> np.ndarray:
    if isinstance(values, Tensor):
        if values.device.type != "cpu":
            raise UserError(f"{what} is on the device '{values.device}', not on the CPU; give tensor.cpu()")
        values = values.detach()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _labels(
    labels: Any, count: int, *, what: str, classes: tuple[str, ...], part: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 (N,) indices, and the names of the classes: `classes`, or where there are none, the labels themselves."""
    of = f"the labels of {what}"
    values = _array(labels, of)
    if values.ndim != 1:
        raise UserError(f"{of} have shape {values.shape}, not ({count},), one for each image{_flat(values)}")
    if len(values) != count:
        raise UserError(f"{what} has {count} images and {len(values)} labels; give one label for each image")
    if values.dtype.kind in "US" and part:
        raise UserError(f"{of} are words, which cannot be numbered alike in all experiences; give integers")
    if values.dtype.kind in "US":
        return _of_words(values.astype(str), of=of, classes=classes)
    if values.dtype.kind not in "iu":
        hint = "; give labels.astype(int)" if values.dtype.kind == "f" else ""
        raise UserError(f"{of} are {values.dtype}, not integers from 0, or words{hint}")
    if count == 0:
        raise UserError(f"{what} has no images")
    low, high = int(values.min()), int(values.max())
    if low < 0 or (classes and high >= len(classes)):
        known = f" to {len(classes) - 1}, for {len(classes)} classes" if classes else ""
        raise UserError(f"{of} run from {low} to {high}; they must run from 0{known}")
    if not (classes or part) and len(present := np.unique(values)) <= high:
        missing = next(label for label in range(high + 1) if label not in present)
        raise UserError(
            f"{of} run from {low} to {high}, and none is {missing}; number them anew by numpy.unique(labels, "
            "return_inverse=True)[1], or name all classes by as_source(data, classes=...)"
        )
    return values.astype(np.int64), classes or tuple(map(str, range(high + 1)))


def _flat(labels: np.ndarray) -> str:
    if labels.ndim == 2 and labels.shape[1] == 1:
        return "; give labels.reshape(-1)"
    return "; of one-hot labels give labels.argmax(1)" if labels.ndim == 2 else ""


def _of_words(words: np.ndarray, *, of: str, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    classes = classes or tuple(sorted(set(words.tolist())))
    places = {name: index for index, name in enumerate(classes)}
    unknown = sorted(set(words.tolist()) - places.keys())
    if unknown:
        raise UserError(f"{of} have the word '{unknown[0]}', which is not among the classes {', '.join(classes[:8])}")
    return np.array([places[word] for word in words.tolist()], dtype=np.int64), classes


# --- a torch Dataset ---------------------------------------------------------------------------------------------


def _of_dataset(
    data: Any,
    *,
    what: str,
    classes: tuple[str, ...] | None,
    like: tuple[str, ...],
    part: bool,
    name: str | None,
    memory_limit: int,
) -> LabelledImages:
    root = data
    while isinstance(root, Subset):  # its labels are those of the whole
        root = root.dataset
    named = getattr(root, "classes", None)
    if classes is None and isinstance(named, (list, tuple)) and named and all(isinstance(one, str) for one in named):
        classes = _names(named)
    of = f"the {type(root).__name__} that {what} is"
    with generators_kept():
        images, labels = _items(data, of, memory_limit)
    require_visible(images.numpy(), of=f"the images of {of}")
    known = classes or like
    indices, known = _labels(np.array(labels), len(images), what=of, classes=known, part=part)
    return LabelledImages(images, torch.from_numpy(indices), known, name or type(root).__name__.lower())


def _items(data: Any, of: str, memory_limit: int) -> tuple[Tensor, list[int | str]]:
    """uint8 (N, C, H, W) images, and labels, of a `Dataset` whose items are the same at every reading."""
    count = len(data)
    if count == 0:
        raise UserError(f"{of} has no items")
    first, label = _item(data, 0, of)
    if (size := count * prod(first.shape)) > memory_limit:
        raise UserError(
            f"{of} has {count} images of {_shape(first)}, {size / 2**30:.1f} GiB in memory, above the limit of "
            f"{memory_limit / 2**30:.1f} GiB; raise it by as_source(data, memory_limit={size}), or have class folders "
            "streamed by load_data('folder:PATH')"
        )
    for index in _spread(count, _READ_TWICE):
        _require_same(data, index, _item(data, index, of), of)
    images, labels = torch.empty((count, *first.shape), dtype=torch.uint8), [label]
    images[0], before = first, generator_states()
    for index in range(1, count):
        image, label = _item(data, index, of)
        if image.shape != first.shape:
            raise UserError(
                f"{of} has images of {_shape(first)} (item 0) and of {_shape(image)} (item {index}); bring all to one "
                "size in its transform, such as Resize((32, 32))"
            )
        images[index] = image
        labels.append(label)
    drawn = generator_states() != before
    for index in range(count) if drawn else _spread(count, _READ_AGAIN):
        _require_same(data, index, (images[index], labels[index]), of)
    return images, labels


def _spread(count: int, most: int) -> list[int]:
    """At most `most` indices, evenly spread from the first of `count` items to the last."""
    return sorted({*np.linspace(0, count - 1, most).astype(int).tolist()})


def _require_same(data: Any, index: int, known: tuple[Tensor, int | str], of: str) -> None:
    image, label = _item(data, index, of)
    if image.shape != known[0].shape or not torch.equal(image, known[0]) or label != known[1]:
        raise UserError(
            f"{of} gives another item {index} when it is read again, so its transform is random; leave the random part "
            "out: the recipe augments images while networks learn"
        )


def _item(data: Any, index: int, of: str) -> tuple[Tensor, int | str]:
    item = data[index]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        what = f"{len(item)} values" if isinstance(item, (tuple, list)) else f"a {type(item).__name__}"
        raise UserError(f"{of} gives {what} for item {index}; a pair (image, label) is needed")
    image, label = item
    if isinstance(label, (Tensor, np.ndarray, np.generic)) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise UserError(
            f"{of} gives a {type(label).__name__} as the label of item {index}; an integer or a word is needed"
        )
    return to_uint8(image, of=f"the images of {of}", advice=_OF_ITEMS)[0], label


def _shape(image: Tensor) -> str:
    return " x ".join(map(str, image.shape))
