"""Dataclasses from the tables of a file, each field checked by its annotation. Reads no files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ghostnas.errors import InputError, did_you_mean, short

Record = TypeVar("Record")
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def from_table(record: type[Record], table: Mapping[str, Any]) -> Record:
    """An instance of a frozen dataclass from a table with its fields' names; fields with a default
    may be left out, and a list stands for a tuple.

    Raises:
        InputError: a key is unknown or missing, or its value is of another type; the key is named.
    """
    fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise InputError(f"unknown key {short(key)}{did_you_mean(str(key), fields)}")
    for key, field in fields.items():
        optional = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if key not in table and not optional:
            raise InputError(f"{key} is missing")
    hints = get_type_hints(record)
    return record(**{key: _checked(hints[key], key, value) for key, value in table.items()})


def _checked(hint: Any, key: str, value: Any) -> Any:
    if not _fits(hint, value):
        raise InputError(f"{key} = {short(repr(value))} is not {_words(hint)}")
    return tuple(value) if get_origin(hint) is tuple else value


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(each, value) for each in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(arguments[0], each) for each in value)
    if origin is Literal:
        return value in arguments
    if hint is NoneType:
        return value is None
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(each) for each in arguments if each is not NoneType)
    if origin is tuple:
        return f"a list, each {_words(arguments[0])}"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    return _WORDS[hint]
