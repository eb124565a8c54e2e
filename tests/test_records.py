"""Dataclasses from tables: each field has its type, or one line names it."""

from dataclasses import dataclass
from typing import Literal

import pytest

from ghostnas.errors import InputError
from ghostnas.nas.settings import Settings, read, to_text
from ghostnas.records import from_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    count: int = 1
    share: float = 0.5
    sure: bool = True
    kind: Literal["a", "b"] = "a"
    many: tuple[float, ...] = ()
    maybe: int | None = None


def test_fields_of_every_type():
    table = {"name": "x", "count": 2, "share": 1, "kind": "b", "many": [1, 2.5], "maybe": 3}
    assert from_table(Row, table) == Row(
        name="x", count=2, share=1, kind="b", many=(1, 2.5), maybe=3
    )
    assert from_table(Row, {"name": "x", "maybe": None}).maybe is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": 3}, "name = 3 is not text"),
        ({"count": 1.5}, r"count = 1\.5 is not a whole number"),
        ({"count": True}, "count = true is not a whole number"),
        ({"share": "x"}, 'share = "x" is not a number'),
        ({"sure": 1}, "sure = 1 is not true or false"),
        ({"kind": "c"}, 'kind = "c" is not one of a, b'),
        ({"many": 3}, "many = 3 is not a list of numbers"),
        ({"many": ["x"]}, r'many = \["x"\] is not a list'),
        ({"maybe": "x"}, 'maybe = "x" is not a whole number'),
        ({"cuont": 3}, r"unknown key 'cuont'; known: name, count, .*; did you mean count\?"),
    ],
)
def test_an_invalid_field_is_named(changed, said):
    with pytest.raises(InputError, match=said):
        from_table(Row, {"name": "x", **changed})


def test_a_missing_field_is_named():
    with pytest.raises(InputError, match="name is missing"):
        from_table(Row, {})


def test_a_whole_number_for_another_is_kept_converted_or_refused():
    table = {"name": "x", "share": 1, "many": [1, 2.5], "maybe": 3}
    for whole, kind in (("kept", int), ("converted", float)):
        row = from_table(Row, table, whole=whole)
        assert [type(value) for value in (row.share, *row.many)] == [kind, kind, float]
        assert type(row.maybe) is int
    with pytest.raises(InputError, match="share = 1 is not a number"):
        from_table(Row, table, whole="refused")
    with pytest.raises(InputError, match=r"many = .* is not a list of numbers"):
        from_table(Row, {"name": "x", "many": [1, 2.5]}, whole="refused")


@pytest.mark.parametrize("line", ["trials = 'x'", "budgets = '20ms'", "workers = 1.5", "seed = []"])
def test_a_search_whose_settings_are_damaged_says_which(tmp_path, line):
    key = line.partition(" ")[0]
    path = tmp_path / "search.toml"
    text = to_text(Settings(target="arm", budgets=("20ms",)))
    kept = [each for each in text.splitlines() if not each.startswith(f"{key} =")]
    path.write_text("\n".join([line, *kept]))
    with pytest.raises(InputError, match=rf"search\.toml: is damaged: {key} = "):
        read(path)
