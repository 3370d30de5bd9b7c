"""JSON typed by people."""

from __future__ import annotations

import json

import pytest

from orchestrator.contracts.documents import legible, parse_document
from orchestrator.contracts.errors import InvalidOption


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", list, "Empty: give a list"),
        (" \n", dict, "Empty: give an object"),
        ('{"a": 1,\n "b" 2}', dict, "Broken JSON at line 2, column 6: Expecting ':' delimiter, near"),
        ("[1, 2", list, "Broken JSON at line 1, column 6"),
        ("[1] tail", list, "Broken JSON at line 1, column 5: Extra data"),
        ("[NaN]", list, "NaN is not JSON"),
        ("[-Infinity]", list, "-Infinity is not JSON"),
        ("3", list, "This is a number: give a list"),
        ("true", dict, "This is true or false: give an object"),
        ("null", dict, "This is null: give an object"),
        ('"text"', list, "This is a string: give a list"),
        ("{}", list, "This is an object: give a list"),
        ("[]", dict, "This is a list: give an object"),
        ("[" * 100_000, list, "cannot be read"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', dict, "the key 'c' stands there twice"),
    ],
)
def test_what_is_refused_says_why(text: str, kind: type, message: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        parse_document(text, kind)
    assert message in str(refused.value)


def test_what_is_fine_is_parsed() -> None:
    assert parse_document('["ü", {"a": null}]', list) == ["ü", {"a": None}]
    assert parse_document("{}", dict) == {}


def test_half_a_surrogate_pair_can_be_shown_and_means_the_same() -> None:
    text = legible(json.dumps(["\ud800", "ü😀"], ensure_ascii=False))
    assert text.encode()
    assert "ü😀" in text
    assert parse_document(text, list) == ["\ud800", "ü😀"]


def test_an_object_hook_that_fails_is_a_refusal() -> None:
    def hook(_: dict[str, object]) -> object:
        raise TypeError("bad date")

    with pytest.raises(InvalidOption, match="cannot be read: bad date"):
        parse_document('{"a": 1}', dict, hook)
