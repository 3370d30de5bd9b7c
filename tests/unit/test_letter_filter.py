"""Filters refuse what they do not understand, and say what they mean."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.deadletters.services import Filter

ONE = str(uuid.uuid4())
TWO = str(uuid.uuid4())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"state": "open"}),
        ({"task": "", "queue": None, "since": ""}, {"state": "open"}),
        ({"state": ""}, {"state": ""}),
        ({"task": "mail.*", "text": "Refused"}, {"task": "mail.*", "text": "Refused", "state": "open"}),
        ({"ids": f"{ONE}, {TWO}"}, {"ids": [ONE, TWO], "state": "open"}),
        ({"ids": [ONE]}, {"ids": [ONE], "state": "open"}),
        ({"since": "2026-01-31"}, {"since": "2026-01-31T00:00:00+00:00", "state": "open"}),
        ({"until": "2026-01-31T08:00+01:00"}, {"until": "2026-01-31T08:00:00+01:00", "state": "open"}),
    ],
)
def test_a_mapping_becomes_a_filter_and_back(given: dict[str, Any], expected: dict[str, Any]) -> None:
    chosen = Filter.from_mapping(given)
    assert chosen.to_mapping() == expected
    assert Filter.from_mapping(expected) == chosen


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"taks": "x"}, UnknownOption, "'taks'.*did you mean 'task'"),
        ({"zzz": "x"}, UnknownOption, "known: error_type"),
        ({"reason": "time-limit"}, InvalidOption, "reason='time-limit'.*did you mean 'time_limit'"),
        ({"reason": "Failed"}, InvalidOption, "did you mean 'failed'"),
        ({"reason": "qqq"}, InvalidOption, "give one of .*worker_lost"),
        ({"state": "opne"}, InvalidOption, "did you mean 'open'"),
        ({"ids": ["17"]}, InvalidOption, "'17' is no id of a dead letter"),
        ({"since": "yesterday"}, InvalidOption, "since='yesterday' is no time: give one such as"),
        ({"until": "2026-02-31"}, InvalidOption, "until='2026-02-31'"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, InvalidOption, "not before until"),
    ],
)
def test_what_cannot_work_is_refused_with_a_way_out(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Filter.from_mapping(given)


def test_a_filter_says_what_it_means() -> None:
    assert Filter().describe() == "open letters"
    assert Filter(state="").describe() == "letters in any state"
    chosen = Filter(
        ids=(ONE, TWO),
        task="mail.send",
        queue="mail",
        reason="failed",
        error_type="KeyError",
        text="x y",
        fingerprint="0123456789",
        since=datetime(2026, 1, 1, tzinfo=UTC),
        until=datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert chosen.describe() == (
        "open letters among 2 named of task 'mail.send' on queue 'mail' with reason failed with error KeyError "
        "mentioning 'x y' of failure group 01234567 since 2026-01-01 00:00:00 UTC until 2026-01-02 00:00:00 UTC"
    )


def test_only_a_condition_besides_the_state_narrows() -> None:
    assert not Filter().narrow
    assert not Filter(state="redriven").narrow
    assert Filter(queue="mail").narrow
    assert Filter(ids=(ONE,)).narrow
