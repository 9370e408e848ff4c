"""Which folders below `folder:PATH` are classes and which are splits.

A split folder is recognised by its name, in any case and with words like `set` or `images` after it: `Train`,
`training_set`, `valid`. With labels, it must hold class folders. A layout that could be read in two ways is refused;
`Layout.remarks` says which folders are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dd_core import store
from dd_core.datasets.folder_names import class_name, few, has_images, looks, printable, subfolders
from dd_core.errors import UserError

_ROLES = re.compile(
    r"(?:(?P<train>train|training|trn)"
    r"|(?P<test>test|testing|tst|holdout|heldout)"
    r"|(?P<val>val|valid|validate|validation|eval|evaluation|dev))"
    r"(?:set|data|dataset|split|part|images?|imgs?|pics?|folder|dir)*s?\d*"
)
_SEPARATORS = re.compile(r"[\W_]+")


class Layout(NamedTuple):
    """Where the images are, the sorted class names, and lines that the user should see.

    train, test: folders of class folders, or of images without labels; test is None where no folder is the test split.
    classes: empty where images are read without labels.
    """

    train: Path
    test: Path | None
    classes: tuple[str, ...]
    remarks: tuple[str, ...]


def find(path: Path) -> Layout:
    """The layout of a folder; raises `UserError` where it has no class folders, or can be read in two ways."""
    _require_folder(path)
    with store.disk_errors(path):
        names = subfolders(path)
        splits = [name for name in names if role(name) and _holds_classes(path / name)]
        train = _only(path, splits, "train")
        if train is None:
            return _of_classes(path, names, splits)
        return _of_splits(path, names, splits, train)


def find_unlabelled(path: Path) -> Layout:
    """The layout of a folder without classes: a training and a test folder, or all images below `path`.

    Raises `UserError` for a folder that can be read in two ways.
    """
    _require_folder(path)
    with store.disk_errors(path):
        names = subfolders(path)
        splits = [name for name in names if role(name)]
        train = _only(path, splits, "train")
        if train is None:
            if {"test", "val"} & {role(name) for name in splits}:
                raise UserError(
                    f"folder:{path} has {few(splits)}, but no training folder; put the training images into a folder "
                    "called train"
                )
            return Layout(path, None, (), ())
        test = _only(path, splits, "test") or _only(path, splits, "val")
        unused = [name for name in names if name not in (train, test)]
        loose = [few(unused)] if unused else []
        if has_images(path):
            loose.append("the images beside them")
        remarks = (f"'{printable(train)}' is read for training; not read: {' and '.join(loose)}",) if loose else ()
        return Layout(path / train, None if test is None else path / test, (), remarks)


def role(name: str) -> str | None:
    """ "train", "test" or "val" for a folder name that means this split, else None."""
    match = _ROLES.fullmatch(_SEPARATORS.sub("", name.casefold()))
    return match.lastgroup if match else None


def _require_folder(path: Path) -> None:
    with store.disk_errors(path):
        if not path.is_dir():
            raise UserError(f"folder:{path}: {'not a folder' if path.exists() else 'there is no such folder'}")


def _holds_classes(folder: Path) -> bool:
    """Whether class folders lie in `folder`: two at least, or one and no images beside it."""
    count = len(subfolders(folder))
    return count > 1 or (count == 1 and not has_images(folder))


def _only(path: Path, splits: Sequence[str], wanted: str) -> str | None:
    names = [name for name in splits if role(name) == wanted]
    if len(names) > 1:
        use = {"train": "training", "test": "testing", "val": "validation"}[wanted]
        raise UserError(f"folder:{path} has {len(names)} folders for {use}: {few(names)}; rename or move all but one")
    return names[0] if names else None


# --- splits -----------------------------------------------------------------------------------------------------


def _of_splits(path: Path, names: Sequence[str], splits: Sequence[str], train: str) -> Layout:
    test = _only(path, splits, "test") or _only(path, splits, "val")
    unused = [name for name in names if name not in (train, test)]
    classes, remarks = _classes(path / train)
    if test is not None:
        theirs, more = _classes(path / test)
        _require_equal_classes(classes, theirs, path / test)
        remarks += more
    if unused or (train, test) not in (("train", "test"), ("train", None)):
        first = f"'{printable(train)}' is read for training" + (f", '{printable(test)}' for testing" if test else "")
        remarks.insert(0, first + (f"; not read: {few(unused)}" if unused else ""))
    return Layout(path / train, None if test is None else path / test, classes, tuple(remarks))


def _require_equal_classes(train: Sequence[str], test: Sequence[str], folder: Path) -> None:
    missing, extra = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    if missing:
        raise UserError(f"folder:{folder} lacks {few(missing)}, which the training folder has")
    if extra:
        raise UserError(f"folder:{folder} has {few(extra)}, which the training folder lacks")


# --- classes ----------------------------------------------------------------------------------------------------


def _of_classes(path: Path, names: Sequence[str], splits: Sequence[str]) -> Layout:
    """The layout where `path` itself holds the class folders; raises `UserError` if some look like splits."""
    if splits:
        raise UserError(
            f"folder:{path} has {few(splits)} with class folders inside, but no training folder; "
            "put the class folders of the training images into a folder called train"
        )
    alike = [name for name in names if role(name)]
    if alike and len(alike) == len(names):
        raise UserError(
            f"folder:{path} has no class folders in {few(alike)}; "
            f"put the images of each class into a folder of its own, such as {alike[-1]}/cat"
        )
    _refuse_disguised_splits(path, names)
    classes, remarks = _classes(path)
    if alike:
        remarks.insert(0, f"no class folders in {few(alike)}: read as a class, and not as a split")
    return Layout(path, None, classes, tuple(remarks))


def _refuse_disguised_splits(path: Path, names: Sequence[str]) -> None:
    """Raise `UserError` for class folders such as seg_train and seg_test that hold class folders themselves."""
    roles = {name: next(filter(None, map(role, _SEPARATORS.split(name))), None) for name in names}
    splits = [name for name in names if roles[name] and _holds_classes(path / name)]
    if {"train"} < {roles[name] for name in splits}:
        raise UserError(
            f"folder:{path}: {few(splits)} look like splits; call them train and test, or, "
            "if they are classes, move their images out of the folders inside"
        )


def _classes(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """The class names of the class folders in `folder`, and remarks; raises `UserError` for fewer than two."""
    names = subfolders(folder)
    if not names:
        content = "images, but no class folders" if has_images(folder) else "no class folders"
        raise UserError(f"folder:{folder} has {content}; put the images of each class into a folder of its own")
    if len(names) == 1:
        deeper = f"; did you mean folder:{folder / names[0]}?" if subfolders(folder / names[0]) else ""
        raise UserError(f"folder:{folder} has one class folder, {few(names)}, and two are needed{deeper}")
    _refuse_equal_insides(folder, names)
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(class_name(name), []).append(name)
    _refuse_lookalikes(folder, list(by_name))
    if len(by_name) == 1:
        raise UserError(f"folder:{folder} has one class, {few(names[:1])}, in several folders, and two are needed")
    remarks = [
        f"{len(spellings)} folders are one class, '{printable(name)}': their names differ in Unicode composition only"
        for name, spellings in by_name.items()
        if len(spellings) > 1
    ]
    return tuple(sorted(by_name)), remarks


def _refuse_lookalikes(folder: Path, classes: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(looks(name), name)
        if other != name:
            raise UserError(
                f"folder:{folder}: the class names {other!a} and {name!a} look the same; "
                "rename one, or move its images into the other folder"
            )


def _refuse_equal_insides(folder: Path, names: Sequence[str]) -> None:
    """Raise `UserError` where all "classes" hold the same folders, so that the outer or the inner ones are no classes.

    A single inner folder (`cat/images`, `dog/images`) is allowed, unless its name is that of a split.
    """
    inside = subfolders(folder / names[0])
    parts = [name for name in inside if role(name)]
    if (len(inside) < 2 and not parts) or any(
        subfolders(folder / name) != inside or has_images(folder / name) for name in names
    ):
        return
    if parts:
        advice = f"put the splits outside and the classes inside: {printable(parts[0])}/{printable(names[0])}"
    else:
        advice = (
            f"if they are splits, call them train and test; if they are the classes, move the images out of the "
            f"folders inside; or give one of them: folder:{folder / names[0]}"
        )
    raise UserError(f"folder:{folder}: {few(names)} hold the same folders each ({few(inside)}); {advice}")
