"""The base of every value that is written to disk or typed by a user, and the canonical text of such a value.

Canonical JSON (sorted keys, no spaces, ASCII) gives equal values one digest, on any machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from dd_core.errors import UserError, nearest

_TOGETHER = 4096  # items of a long list that are JSON at a time


class Config(BaseModel):
    """A frozen value with no unknown keys and no silent conversions.

    A program may give numpy's numbers for Python's, and lists for tuples. An invalid value raises `UserError` with one
    line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # a type checker knows the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**{name: _pythons(value) for name, value in values.items()})
            except ValidationError as error:
                raise UserError(_first_line(type(self), error, where=type(self).__name__, key="")) from None

        __init__.__pydantic_base_init__ = True  # pydantic goes on validating nested and decoded values by itself


class FrozenArrays:
    """The base of a value with read-only numpy arrays, in pickled copies too; a deep copy is the value itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenArrays:
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for value in state.values():
            if hasattr(value, "setflags"):
                value.setflags(write=False)


def class_names(given: Any, where: str) -> tuple[str, ...]:
    """The names of classes from a list or an array of different texts or whole numbers; a number becomes its digits.

    Raises `UserError`, whose text begins with `where`, for anything else.
    """
    listed = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        kind = type(given).__name__
        raise UserError(f"{where}: classes are a list of names, one for each label from 0 on, not {kind}")
    names = tuple(_pythons(name) for name in listed)
    for name in names:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise UserError(f"{where}: the name of a class is a text or a whole number, not {_short(name)}")
    named = tuple(map(str, names))
    if len({*named}) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise UserError(f"{where}: two classes are called {_short(twice)}; names of classes differ")
    return named


def _pythons(value: Any) -> Any:
    """`value` with scalars of numpy and torch as Python's numbers, and lists and 1-D arrays as tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(_pythons(part) for part in value)
    if getattr(value, "ndim", None) in (0, 1) and hasattr(value, "tolist"):
        return _pythons(value.tolist())
    return value


def _for_json(value: Any) -> Any:
    """A config as a table, and a scalar of numpy or torch as a Python number."""
    if isinstance(value, BaseModel):
        return plain(value)
    if (own := _pythons(value)) is not value:
        return own
    raise TypeError(f"expected numbers, text, lists and tables, and got {type(value).__name__}")


def _with_nothing(model: type[BaseModel], data: object) -> object:
    """`data` with the word "none" as None, for keys that may be None."""
    if not isinstance(data, Mapping):
        return data
    decoded: dict[Any, object] = {}
    for name, value in data.items():
        field = model.model_fields.get(name)
        inner = _models_in(field.annotation) if field else []
        nothing = isinstance(value, str) and value == "none" and _may_be_nothing(model, name)
        decoded[name] = None if nothing else _with_nothing(inner[0], value) if inner else value
    return decoded


def _may_be_nothing(model: type[BaseModel], name: str) -> bool:
    """Whether a key may be None and takes no text, which could be the word "none"."""
    field = model.model_fields.get(name)
    kinds = get_args(field.annotation) if field else ()
    return type(None) in kinds and str not in kinds


C = TypeVar("C", bound=Config)


def checked(value: str, check: Callable[[str], object]) -> str:
    """`value` after `check`, for a pydantic validator: a `UserError` of `check` becomes the error of the key."""
    try:
        check(value)
    except UserError as error:
        raise ValueError(error.text) from None
    return value


def plain(value: object) -> Any:
    """`value` as dictionaries, lists and scalars."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def canonical(value: object) -> str:
    """The one JSON text of `value`; raises ValueError for NaN and infinities."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """sha256 of the canonical text, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def digest_of_list(items: Sequence[object]) -> str:
    """The `digest` of a list, of which no more than some thousand items are JSON at a time."""
    seen = hashlib.sha256()
    for piece in _pieces(items):
        seen.update(piece.encode())
    return seen.hexdigest()


def digest_of_lists(*lists: Sequence[object] | None) -> str:
    """The `digest` of the list of these lists, each in pieces as in `digest_of_list`."""
    seen = hashlib.sha256()
    for number, items in enumerate(lists):
        seen.update(b"," if number else b"[")
        for piece in ["null"] if items is None else _pieces(items):
            seen.update(piece.encode())
    seen.update(b"]")
    return seen.hexdigest()


def _pieces(items: Sequence[object]) -> Iterator[str]:
    yield "["
    for start in range(0, len(items), _TOGETHER):
        yield "," if start else ""
        yield canonical([items[row] for row in range(start, min(start + _TOGETHER, len(items)))])[1:-1]
    yield "]"


def decode(model: type[C], data: object, *, where: str = "", key: str = "") -> C:
    """`data` (from TOML or JSON) as a `model`.

    Lists become tuples. TOML has no null, so the word "none" becomes None for a key that may be None and takes no text.
    Raises `UserError` with one line: `where: key.path: what is wrong`.
    """
    try:
        return model.model_validate_json(json.dumps(_with_nothing(model, data), default=_for_json))
    except ValidationError as error:
        raise UserError(_first_line(model, error, where=where, key=key)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(": ".join(part for part in (where, key, str(error)) if part)) from None


def _first_line(model: type[BaseModel], error: ValidationError, *, where: str, key: str) -> str:
    mistakes = error.errors(include_url=False)
    # a misspelt key also leaves the right one missing: name the misspelling
    first = next((mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0])
    path = [_name(part) for part in first["loc"]]
    dotted = ".".join([key, *path] if key else path)
    if first["type"] == "extra_forbidden":
        what = f"unknown key{nearest(path[-1], _keys_at(model, path[:-1]))}"
    elif first["type"] == "missing":
        what = "required, but not given"
    elif first["type"] == "value_error":
        what = str(first.get("ctx", {}).get("error", first["msg"]))
    else:
        what = f"{first['msg'][0].lower()}{first['msg'][1:]} (given: {_short(first['input'])})"
    return ": ".join(part for part in (where, dotted, what) if part)


def _name(part: object) -> str:
    """A key as it was given, if it is one short printable line; else shortened."""
    text = str(part)
    return text if text.isprintable() and len(text) <= 60 else _short(text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the model nested at `path`; of `model` itself where the path cannot be followed."""
    for part in path:
        field = model.model_fields.get(part)
        inner = _models_in(field.annotation) if field else []
        model = inner[0] if inner else model
    return list(model.model_fields)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def difference(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Key-by-key lines `key: old -> new` for two nested dictionaries, in key order."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += difference(before, after, prefix=f"{name}.")
        elif before != after:
            lines.append(f"{name}: {_short(before)} -> {_short(after)}")
    return lines


def describe(model: type[BaseModel]) -> list[dict[str, str]]:
    """The name, type, default and meaning of every key of a model; the meaning is the field's description."""
    rows: list[dict[str, str]] = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        rows.append(
            {
                "key": name,
                "type": _type_name(field.annotation),
                "default": default,
                "meaning": field.description or "",
            }
        )
    return rows


def _default(value: object) -> str:
    return json.dumps(plain(value))


def _type_name(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(json.dumps(choice) for choice in get_args(annotation))
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return " | ".join(_type_name(part) for part in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if annotation is type(None):
        return "none"
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}"
    return getattr(annotation, "__name__", str(annotation))
