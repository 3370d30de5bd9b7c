"""Letters keep every byte on their way from a worker to a row, whatever is in them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contracts import codec
from orchestrator.contracts.errors import PayloadUnreadable
from orchestrator.contracts.message import LETTER_VERSION, PUBLISHED_AS, Letter, WireMessage
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.deadletters.filing import RAW_LETTER, file_of, row_of
from orchestrator.deadletters.models import DeadLetter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.dictionaries(st.text(), JSON, max_size=4)
TIMES = st.floats(min_value=0, max_value=4e9)

messages = st.builds(
    WireMessage,
    body=st.binary(),
    content_type=st.text(),
    content_encoding=st.text(),
    headers=HEADERS,
    properties=HEADERS,
    queue=st.text(),
    exchange=st.text(),
    routing_key=st.text(),
)
letters = st.builds(
    Letter,
    attempt_id=st.text(),
    verdict=st.sampled_from(Verdict),
    reason=st.sampled_from(Reason),
    task=st.text(),
    task_id=st.text(),
    message=messages,
    queue=st.text(),
    worker=st.text(),
    args_repr=st.text(),
    kwargs_repr=st.text(),
    error_type=st.text(),
    error_message=st.text(),
    traceback=st.text(),
    retries=st.integers(-5, 2**80),
    root_id=st.text(),
    parent_id=st.text(),
    group_id=st.text(),
    redrive_of=st.text(),
    history=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=3),
    published_at=st.none() | TIMES,
    died_at=TIMES,
)


def a_letter(**changes: Any) -> Letter:
    values: dict[str, Any] = {
        "attempt_id": "a" * 32,
        "verdict": Verdict.FAILED,
        "reason": Reason.FAILED,
        "task": "shop.ship",
        "task_id": "t-1",
        "message": WireMessage(b"[[1], {}, {}]", "application/json", "utf-8", {"task": "shop.ship"}, {}, queue="shop"),
        "died_at": 1_700_000_000.5,
    }
    return Letter(**{**values, **changes})


@given(letters)
def test_a_letter_survives_the_stream(letter: Letter) -> None:
    assert Letter.loads(letter.dumps()) == letter


@given(messages)
def test_a_message_survives_the_column(message: WireMessage) -> None:
    assert codec.unseal(codec.seal(message)) == message


@given(letters)
def test_any_letter_becomes_a_row_that_every_database_takes(letter: Letter) -> None:
    row = row_of(Letter.loads(letter.dumps()))
    assert row.message == letter.message
    for field in DeadLetter._meta.concrete_fields:
        value = getattr(row, field.attname)
        text = json.dumps(value, default=str) if field.get_internal_type() == "JSONField" else value
        if isinstance(text, str):
            assert "\0" not in text
            assert "\\u0000" not in text or field.name == "payload"
            text.encode("utf-8")
            assert field.max_length is None or len(text) <= field.max_length
    assert 0 <= row.retries < 2**31


@given(st.binary())
def test_any_bytes_become_a_row_that_keeps_them(raw: bytes) -> None:
    row = file_of("1-0", raw)
    assert row.reason == Reason.UNDECODABLE
    assert row.message.body == raw
    assert row.message.content_type == RAW_LETTER


@pytest.mark.parametrize(
    "broken",
    [
        {"v": LETTER_VERSION + 1},
        {"v": None},
        {"verdict": "unheard of"},
        {"message": {"body": "x"}},
        {"message": None},
        {"traceback": None},
        {"extra": 1},
        {"history": 5, "error_message": ["x"]},
    ],
)
def test_a_letter_that_is_not_understood_keeps_its_bytes(broken: dict[str, Any]) -> None:
    raw = json.dumps({**json.loads(a_letter().dumps()), **broken}).encode()
    row = file_of("1-0", raw)
    assert json.loads(row.message.body if row.reason == Reason.UNDECODABLE else raw) == json.loads(raw)


def test_the_same_record_has_the_same_key_and_two_records_have_two() -> None:
    assert file_of("1-0", b"?").key == file_of("1-0", b"?").key
    assert file_of("1-0", b"?").key != file_of("2-0", b"?").key
    assert file_of("1-0", a_letter().dumps()).key == file_of("2-0", a_letter().dumps()).key == "a" * 32


def test_a_message_that_is_buried_twice_has_one_key_and_another_one_another() -> None:
    """Whatever the attempt; a message is told by what it was published as, its id, retries and body."""

    def key(attempt: str, tag: str | None, **fields: Any) -> str:
        message = replace(a_letter().message, properties={PUBLISHED_AS: tag})
        return str(row_of(a_letter(attempt_id=attempt, message=message, **fields)).key)

    assert key("first", "tag") == key("second", "tag")
    assert len({key("a", "tag"), key("a", "other"), key("a", "tag", retries=7), key("a", "tag", task_id="else")}) == 4
    assert (key("first", None), key("second", None)) == ("first", "second")


def test_attempt_ids_that_do_not_fit_stay_distinct() -> None:
    rows = [row_of(a_letter(attempt_id="x" * 200 + end)) for end in ("a", "b", "\0")]
    assert len({row.key for row in rows}) == 3


def test_the_row_says_what_the_letter_says() -> None:
    row = row_of(a_letter(error_type="KeyError", error_message="No Such", args_repr="('Ann',)", retries=3))
    assert (row.state, row.task, row.task_id, row.queue) == ("open", "shop.ship", "t-1", "shop")
    assert (row.error_type, row.retries, row.died_at.timestamp()) == ("KeyError", 3, 1_700_000_000.5)
    assert row.published_at is None


def test_search_text_is_lower_case_and_holds_nothing_of_the_payload() -> None:
    message = WireMessage(b'[["SECRET"], {}, {}]', "application/json", "utf-8", {"argsrepr": "SECRET"}, {})
    row = row_of(a_letter(message=message, error_message="No Such", args_repr="('Ann',)", traceback="local = TRACE"))
    assert row.search == row.search.lower()
    assert all(part in row.search for part in ("shop.ship", "t-1", "no such", "('ann',)", "failed"))
    assert "secret" not in row.search


@pytest.mark.parametrize("column", ["", "plain", "plain:", "plain:{}", "plain:[]", "cipher:abc", "plain:{bad"])
def test_a_damaged_or_unknown_column_is_said(column: str) -> None:
    with pytest.raises(PayloadUnreadable, match="payload"):
        codec.unseal(column)
