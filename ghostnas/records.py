"""Dataclasses from the tables of a TOML or JSON file, each field checked by its annotation.

Reads no files; ranges, and what fields are to one another, are the caller's to check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from ghostnas.errors import InputError, did_you_mean, short
from ghostnas.files import toml_value

Record = TypeVar("Record")
# What becomes of a whole number where the annotation says float.
Whole: TypeAlias = Literal["kept", "converted", "refused"]
_WORDS = {  # one value, and a list of them
    bool: ("true or false", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
}


def from_table(record: type[Record], table: Mapping[str, Any], *, whole: Whole = "kept") -> Record:
    """An instance of a frozen dataclass from a table with its fields' names; fields with a default
    may be left out, and a list stands for a tuple.

    Raises:
        InputError: a key is unknown or missing, or its value is of another type; the key is named.
    """
    fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            known = ", ".join(fields)
            meant = did_you_mean(str(key), fields)
            raise InputError(f"unknown key {_shown(key)}; known: {known}{meant}")
    needed = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [
        key
        for key, field in fields.items()
        if key not in table and (field.default, field.default_factory) == needed
    ]
    if missing:
        raise InputError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    hints = _hints(record)  # type: ignore[arg-type]
    return record(**{key: _checked(hints[key], key, value, whole) for key, value in table.items()})


def refused(key: str, value: object, needed: str) -> InputError:
    """The error of a value that is not what its key needs, in the words of all such errors."""
    return InputError(f"{key} = {short(toml_value(value))} is not {needed}")


@cache
def _hints(record: type) -> dict[str, Any]:
    """Annotations take a millisecond to evaluate; a report of 500 networks asks 9,000 times."""
    return get_type_hints(record)


def _checked(hint: Any, key: str, value: Any, whole: Whole) -> Any:
    if not _fits(hint, value, whole):
        raise refused(key, value, _words(hint))
    if get_origin(hint) is tuple:
        return tuple(_converted(get_args(hint)[0], each, whole) for each in value)
    return _converted(hint, value, whole)


def _converted(hint: Any, value: Any, whole: Whole) -> Any:
    return float(value) if hint is float and whole == "converted" else value


def _fits(hint: Any, value: Any, whole: Whole) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(each, value, whole) for each in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(
            _fits(arguments[0], each, whole) for each in value
        )
    if origin is Literal:
        return value in arguments
    if hint is NoneType:
        return value is None
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, float if whole == "refused" else int | float)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(each) for each in arguments if each is not NoneType)
    if origin is tuple:
        return f"a list of {_WORDS[arguments[0]][1]}"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    return _WORDS[hint][0]


def _shown(value: object) -> str:
    return short(repr(value))
