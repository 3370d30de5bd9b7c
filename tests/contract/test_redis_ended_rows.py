"""Ends of messages of the outbox: which are told, and that names are forgotten once their rows are."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Outcome, Reason, Verdict
from orchestrator.launch.ports import free_port
from orchestrator.policies.outbox import SendOnce
from orchestrator.stores.redis.ended import RedisEndedRows
from orchestrator.stores.redis.leases import RedisLeases
from tests.support.broker import Broker
from tests.support.wait import eventually
from tests.support.zoo import add

MARK = {"row": "a-row", "nonce": "n", "kept": True}


def attempt(mark: dict[str, Any]) -> Attempt:
    return Attempt("", add, "id", (), {}, 0, {"v": 1, "outbox": mark})


class Told:
    """A policy, and what it tells."""

    def __init__(self, broker: Broker) -> None:
        self.rows = RedisEndedRows(broker.url, "ends:", 2.0)
        self.policy = SendOnce(RedisLeases(broker.url, "ends:", 2.0), self.rows)

    def names(self) -> list[str]:
        """Return what was told so far; what comes last shows that nothing is on its way."""
        self.rows.note("the last")
        eventually(lambda: "the last" in self.rows.take(100))
        return [name for name in self.rows.take(100) if name != "the last"]


@pytest.fixture
def told(broker: Broker) -> Told:
    """Nothing was told yet."""
    return Told(broker)


def test_what_ran_well_is_told_unless_its_row_is_not_kept(told: Told) -> None:
    told.policy.on_execute(attempt({"row": "other", "nonce": "n"}), lambda _: 1)
    assert told.names() == []
    told.policy.on_execute(attempt(MARK), lambda _: 1)
    assert told.names() == ["a-row"]
    told.rows.settle(["a-row", "never there"])
    assert told.names() == []


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        (Outcome(Verdict.FAILED, Reason.FAILED), True),
        (Outcome(Verdict.LOST, Reason.POISON), True),
        (Outcome(Verdict.REVOKED), True),
        (Outcome(Verdict.EXPIRED), True),
        (Outcome(Verdict.REJECTED, Reason.REJECTED), True),
        (Outcome(Verdict.REJECTED), False),
        (Outcome(Verdict.RETRIED), False),
        (Outcome(Verdict.DEFERRED), False),
    ],
)
def test_what_will_not_run_again_is_told(told: Told, outcome: Outcome, ends: bool) -> None:
    told.policy.on_settle(attempt(MARK), outcome)
    assert bool(told.names()) == ends


def test_to_skip_a_copy_ends_nothing(told: Told) -> None:
    def ignore(_: Attempt) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        told.policy.on_execute(attempt(MARK), ignore)
    told.policy.on_settle(attempt({**MARK, "nonce": "another"}), Outcome(Verdict.SKIPPED))
    assert told.names() == []
    told.policy.on_settle(attempt(MARK), Outcome(Verdict.SKIPPED))
    assert told.names() == ["a-row"]


def test_a_store_that_is_away_fails_nobody() -> None:
    rows = RedisEndedRows(f"redis://127.0.0.1:{free_port()}/0", "ends:", 0.2)
    for _ in range(3):
        rows.note("a-row")
