"""The laws of ``contracts/policy.py`` for every policy that is in the list, on a real Redis.

A policy that joins ``conf.POLICIES`` is tested here without a line being added.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.utils.imports import symbol_by_name

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Attempt, Letter, Publication, WireMessage
from orchestrator.contracts.outcome import Defer, Outcome, PermanentError, Reason, Skip, Verdict
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.redaction import REDACTED_NAMES
from orchestrator.deadletters.drain import Drain
from orchestrator.deadletters.models import DeadLetter
from orchestrator.engine.publication import Dispatcher
from orchestrator.idempotency.records import DatabaseRecords
from orchestrator.launch.ports import free_port
from orchestrator.policies.dead_letter import DeadLetters
from orchestrator.policies.outbox import SendOnce
from orchestrator.policies.redrive import RedriveOnce
from orchestrator.stores.redis.attempts import RedisAttemptLog
from orchestrator.stores.redis.breakers import RedisBreakers
from orchestrator.stores.redis.deduplication import RedisDeduplicationLocks
from orchestrator.stores.redis.ended import RedisEndedRows
from orchestrator.stores.redis.idempotency import RedisIdempotencyRecords
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.stores.redis.letters import RedisLetterbox, RedisLetterSource
from orchestrator.stores.redis.limits import RedisLimits
from orchestrator.stores.redis.progress import RedisProgressLog
from orchestrator.stores.redis.results import ResultStore
from tests.support.broker import Broker
from tests.support.zoo import add, anything, secretive

#: The fixtures' policies keep no state that one example could leave for the next.
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_numbers = itertools.count()

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["card", "password", "token", "order", "person", "note"])
arguments = st.tuples(st.lists(values, max_size=3), st.dictionaries(names, values, max_size=3))
headers = st.sampled_from(
    [
        {"v": 1},
        {"v": 1, "redrive": {"of": "x", "letter": "fixed", "nonce": "n"}},
        {"v": 1, "outbox": {"row": "fixed", "nonce": "n"}},
        {"v": 1, "outbox": {"row": "fixed", "nonce": "n", "kept": True}},
        {"v": 1, "idempotency_key": "one"},
        {"v": 1, "dedup": {"key": "one", "mode": "until_finished", "spans": [0, 60, 0]}},
        {"v": 1, "dedup": {"key": "one", "mode": "latest", "spans": [0, 60, 0]}},
        {"v": 1, "dedup": {"key": "one", "mode": "until_started", "spans": [0, 60, 0]}},
    ]
)
errors = st.sampled_from(
    [
        ValueError("no"),
        ConnectionError(),
        PermanentError("closed"),
        Defer(1.0),
        Skip("other"),
        SoftTimeLimitExceeded(5),
        KeyboardInterrupt(),
        SystemExit(2),
        GeneratorExit(),
    ]
)


def parts(url: str, timeout: float = 2.0, prefix: str = "") -> Parts:
    """Return real parts under a prefix of their own."""
    prefix = prefix or f"laws-{next(_numbers)}:"
    leases = RedisLeases(url, prefix, timeout)
    return Parts(
        letterbox=RedisLetterbox(url, prefix, timeout),
        leases=leases,
        idempotency=RedisIdempotencyRecords(leases),
        limits=RedisLimits(leases, aging=60),
        transactional_records=DatabaseRecords,
        deduplication=RedisDeduplicationLocks(leases, 30),
        dispatch=Dispatcher(get_app()),
        breakers=RedisBreakers(leases),
        attempts=RedisAttemptLog(url, prefix, timeout),
        progress=RedisProgressLog(ResultStore(url, prefix, timeout), lambda call, _: call()),
        ended_rows=RedisEndedRows(url, prefix, timeout),
        redacted_names=REDACTED_NAMES,
    )


@pytest.fixture(params=conf.POLICIES, ids=lambda path: str(path).rsplit(".", 1)[1])
def build(request: pytest.FixtureRequest) -> Callable[[Parts], Policy]:
    """One policy of the list, to be built."""
    made: Callable[[Parts], Policy] = symbol_by_name(request.param).build
    return made


@pytest.fixture
def policy(build: Callable[[Parts], Policy], broker: Broker) -> Policy:
    """One policy of the list."""
    return build(parts(broker.url))


class Proceed:
    """The rest of the chain: counts its calls, then returns or raises."""

    def __init__(self, end: Any) -> None:
        self.calls = 0
        self._end = end

    def __call__(self, subject: Any) -> Any:
        self.calls += 1
        if isinstance(self._end, BaseException):
            raise self._end
        return self._end


def outcome_of(hook: Callable[[Any, Any], Any], subject: Any, proceed: Proceed) -> Any:
    """Return what the hook returns or raises."""
    try:
        return hook(subject, proceed)
    except BaseException as error:
        return error


def publication(task: Any, given_args: Any, header: Mapping[str, Any]) -> Publication:
    args, kwargs = given_args
    return Publication(task.name, "an-id", args, kwargs, {"queue": "q"}, task, False, dict(header))


def attempt(task: Any, given_args: Any, header: Mapping[str, Any], **more: Any) -> Attempt:
    args, kwargs = given_args
    if "idempotency_key" in header:
        # Each example is an effect of its own.
        header = {**header, "idempotency_key": f"key-{next(_numbers)}"}
    return Attempt(f"attempt-{next(_numbers)}", task, "an-id", args, kwargs, 0, header, **more)


@quick
@given(task=st.sampled_from([add, secretive, anything]), given_args=arguments, header=headers, end=values | errors)
def test_publishing_proceeds_once_and_passes_what_comes_back(
    policy: Policy, task: Any, given_args: Any, header: Any, end: Any
) -> None:
    """No default policy refuses to publish; an error of the rest of the chain is not touched."""
    subject, before, proceed = publication(task, given_args, header), copy.deepcopy(given_args), Proceed(end)
    assert outcome_of(policy.on_publish, subject, proceed) is end
    assert proceed.calls == 1
    assert (subject.args, subject.kwargs) == before
    assert (subject.task_id, subject.name) == ("an-id", task.name)


@quick
@given(task=st.sampled_from([add, secretive, anything]), given_args=arguments, header=headers, end=values | errors)
def test_executing_proceeds_once_and_passes_what_comes_back(
    policy: Policy, task: Any, given_args: Any, header: Any, end: Any
) -> None:
    """Also ``BaseException``s, and the very same object: what catches it further out may compare."""
    if not policy.applies(task, header):
        return
    subject, before, proceed = attempt(task, given_args, header), copy.deepcopy(given_args), Proceed(end)
    assert outcome_of(policy.on_execute, subject, proceed) is end
    assert proceed.calls == 1
    assert (subject.args, subject.kwargs) == before


def letter_for(subject: Attempt) -> Callable[[Outcome], Letter]:
    """Return what builds the letter of an attempt."""

    def build_letter(outcome: Outcome) -> Letter:
        message = WireMessage(b"[[], {}, {}]", "application/json", "utf-8", {"task": subject.task.name}, {})
        return Letter(
            subject.attempt_id,
            outcome.verdict,
            outcome.reason,
            subject.task.name,
            subject.task_id,
            message,
            died_at=1.0,
        )

    return build_letter


def settled(policy: Policy, outcome: Outcome, times: int) -> Attempt:
    """Settle a new attempt so many times."""
    subject = attempt(add, ([], {}), {"v": 1})
    subject.letter = letter_for(subject)
    for _ in range(times):
        policy.on_settle(subject, outcome)
    return subject


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("reason", list(Reason))
def test_settling_twice_does_no_harm(build: Callable[[Parts], Policy], broker: Broker, reason: Reason) -> None:
    """Two processes may both report an end; one row comes of it at most."""
    prefix = f"laws-{next(_numbers)}:"
    policy = build(parts(broker.url, prefix=prefix))
    subject = settled(policy, Outcome(Verdict.FAILED, reason, "ValueError", "no"), 2)
    drain = Drain(RedisLetterSource(broker.url, prefix, 2.0))
    while drain(10, 0.0) or broker.client.xlen(f"{prefix}letters"):
        pass
    rows = list(DeadLetter.objects.values_list("key", "reason"))
    assert rows == ([(subject.attempt_id, reason)] if isinstance(policy, DeadLetters) else [])


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.FAILED])
def test_an_outcome_without_a_reason_is_never_buried(policy: Policy, broker: Broker, verdict: Verdict) -> None:
    """The reason, and nothing else, says that a message belongs into the inbox."""
    settled(policy, Outcome(verdict), 1)
    assert not broker.client.keys("laws-*letters")


def test_a_store_that_is_away_neither_hangs_nor_lets_a_body_run_unguarded(build: Callable[[Parts], Policy]) -> None:
    """Each hook needs no store, or soon raises ``StoreUnavailable`` or defers, and has not proceeded."""
    policy = build(parts(f"redis://127.0.0.1:{free_port()}/0", timeout=1.0))
    header = {
        "v": 1,
        "redrive": {"of": "x", "letter": "l", "nonce": "n"},
        "outbox": {"row": "r", "nonce": "n"},
        "idempotency_key": "one",
    }
    begun = time.monotonic()
    for hook, subject in (
        (policy.on_publish, publication(add, ([1, 2], {}), header)),
        (policy.on_execute, attempt(add, ([1, 2], {}), header)),
    ):
        proceed = Proceed("value")
        came = outcome_of(hook, subject, proceed)
        assert (came == "value" and proceed.calls == 1) or (
            isinstance(came, StoreUnavailable | Defer) and not proceed.calls
        )
    assert time.monotonic() - begun < 10


def test_the_letterbox_policy_fails_closed(broker: Broker) -> None:
    """A letter that is not safe is an error, so that its message is not acknowledged."""
    policy = DeadLetters.build(parts(f"redis://127.0.0.1:{free_port()}/0", timeout=1.0))
    with pytest.raises(StoreUnavailable, match="could not be stored"):
        settled(policy, Outcome(Verdict.FAILED, Reason.FAILED), 1)


@pytest.mark.parametrize(("kind", "key", "name"), [(RedriveOnce, "redrive", "letter"), (SendOnce, "outbox", "row")])
def test_of_two_copies_the_first_runs_also_again(broker: Broker, kind: type[Policy], key: str, name: str) -> None:
    """A copy that is delivered again, or retried, is the same copy; another nonce is another."""
    policy = kind.build(parts(broker.url))
    runs = []
    for nonce in ("first", "second", "first", "third"):
        header = {"v": 1, key: {name: "one", "nonce": nonce}}
        proceed = Proceed("ran")
        came = outcome_of(policy.on_execute, attempt(add, ([], {}), header), proceed)
        assert proceed.calls == (came == "ran")
        assert came == "ran" or isinstance(came, Skip)
        runs.append(came == "ran")
    assert runs == [True, False, True, False]
