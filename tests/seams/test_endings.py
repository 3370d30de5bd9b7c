"""Every way in which a task can end, on every pool, with real processes.

``orchestrator/docs/endings.md`` names these tests in its table.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from django.core.management import call_command

from orchestrator.celery import get_app
from orchestrator.contracts.outcome import Reason
from orchestrator.deadletters.models import DeadLetter
from tests.support import endings, environment, inflight
from tests.support.endings import Run

# The mark makes pytest-django set the database up; the rows are read once, by the fixture.
pytestmark = [pytest.mark.database, pytest.mark.django_db]

POOLS = ("swarm", "prefork", "solo", "threads")


def ran(run: Run, key: str, times: int) -> bool:
    """Whether an effect came so often. What a process of the swarm did in the 20 ms before its death may come again."""
    return times <= run.effects[key] <= times + (run.pool == "swarm")


@pytest.fixture(scope="module", params=POOLS)
def run(request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: object) -> Iterator[Run]:
    """One worker's answer to every ending."""
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        environment.world().broker.flush()
        made = endings.run(request.param)
        yield made
        call_command("flush", verbosity=0, interactive=False)


def letter(run: Run, how: str) -> DeadLetter:
    """Return the one letter of an ending."""
    assert how in run.letters, f"no letter for {how}; there are {sorted(run.letters)}"
    return run.letters[how]


def test_every_buried_ending_has_exactly_one_letter_with_its_reason(run: Run) -> None:
    """Each ending that needs a person has one letter; no other ending has any."""
    assert {how: row.reason for how, row in run.letters.items()} == endings.expected(run.pool)
    assert run.buried == len(run.letters)


def test_no_ending_that_needs_nobody_is_buried(run: Run) -> None:
    """Success, ignore, replacement, deferral, a retry that helps and plain expiry leave no letter."""
    for how in ("succeed", "ignore", "replace", "defer", "retry_helps", "coroutine", "expired"):
        assert how not in run.letters
    assert run.results["succeed"].status == "SUCCESS"
    assert run.results["replace"].status == "SUCCESS"
    assert run.results["defer"].status == "SUCCESS"
    assert run.results["retry_helps"].status == "SUCCESS"
    assert run.results["expired"].status == "REVOKED"
    assert ran(run, "replacement", 1)
    assert "expired" not in run.effects


def test_coroutine_functions_are_run_not_only_created(run: Run) -> None:
    """``async def`` tasks take effect; plain Celery reports SUCCESS without running the body."""
    assert ran(run, "coroutine", 1)
    assert run.results["coroutine"].result == '"awaited"'


def test_a_deferral_counts_no_retry(run: Run) -> None:
    """A deferred task runs again with the same number of retries."""
    assert ran(run, "defer", 3)
    assert "retries" not in run.results["defer"].meta or '"retries": 0' in run.results["defer"].meta


def test_retries_run_as_often_as_declared_and_leave_their_history(run: Run) -> None:
    """Two retries mean three attempts; the letter tells of the first two."""
    row = letter(run, "retries_exhausted")
    assert ran(run, "retries_exhausted", 3)
    assert row.retries == 2
    assert [entry["n"] for entry in row.history] == [1, 2]
    assert row.history[0]["error"] == "ConnectionError: attempt 1 refused"
    assert row.error_message == "attempt 3 refused"


def test_celerys_own_retry_leaves_a_history_too(run: Run) -> None:
    """``self.retry()`` in a body is as good as a declared retry."""
    row = letter(run, "celery_retry")
    assert (row.retries, len(row.history)) == (2, 2)


def test_a_permanent_error_is_not_retried(run: Run) -> None:
    """A PermanentError goes straight to the inbox, whatever the task would retry."""
    assert ran(run, "permanent_beats_retry", 1)


def test_a_letter_keeps_error_traceback_worker_and_times(run: Run) -> None:
    """Everything that a person needs is in the row."""
    row = letter(run, "fail")
    assert (row.error_type, row.error_message) == ("LookupError", "no such order")
    assert "\n    raise LookupError(text)\n" in row.traceback
    assert row.worker.endswith("@test")
    assert row.queue == "celery"
    assert row.fingerprint
    assert row.published_at is not None
    assert row.published_at <= row.died_at <= row.filed_at


def test_a_letter_keeps_the_exact_message(run: Run) -> None:
    """Arguments, headers and options survive byte for byte."""
    message = letter(run, "fail").message
    args, kwargs, embed = get_app().decode(message)
    assert (args, kwargs) == (["fail"], {"key": "fail"})
    assert not any(embed.values())
    assert message.headers["id"] == run.sent["fail"]
    assert letter(run, "content_type").message.body == b"\x80\x04N."
    assert letter(run, "undecodable").message.body == b'[[1, 2], {"x": '


def test_an_unknown_task_keeps_its_arguments(run: Run) -> None:
    """A task that a rolling deploy removed can be replayed once it is back."""
    row = letter(run, "unknown_task")
    assert row.task == endings.UNKNOWN_NAME
    assert get_app().decode(row.message)[0] == [1]
    assert "hunter2" not in row.kwargs_repr + row.search + row.error_message
    assert run.results["unknown_task"].task_name == endings.UNKNOWN_NAME


def test_sensitive_values_appear_nowhere_outside_the_payload(run: Run) -> None:
    """Neither row, nor result, nor log quotes them; the payload does, or it could not be replayed."""
    row = letter(run, "secretive")
    result = run.results["secretive"]
    shown = [row.args_repr, row.kwargs_repr, row.search, row.error_message, row.traceback, str(row.history), run.log]
    shown += [str(getattr(result, column)) for column in ("task_args", "task_kwargs", "result", "traceback", "meta")]
    for secret in ("4111222233334444", "Person Longname"):
        assert not [text for text in shown if secret in text]
        assert secret in row.payload
    assert "[redacted]" in row.args_repr


def test_success_lines_do_not_quote_return_values(run: Run) -> None:
    """The log tells that a task succeeded, not with what."""
    assert "succeeded in" in run.log
    assert "awaited" not in run.log


def test_the_worker_survives_all_of_it(run: Run) -> None:
    """No body can end the worker, and nothing is left unacknowledged."""
    client = redis.Redis.from_url(environment.world().broker.url)
    assert inflight.count(client) == 0
    assert client.llen("celery") == 0


def test_every_reason_has_been_seen() -> None:
    """The endings above cover the closed set of reasons, but for the one that takes several dead workers."""
    seen = {*endings.BURIED.values(), *endings.EXIT_REASON.values()}
    assert seen | {"poison"} == {reason.value for reason in Reason}
