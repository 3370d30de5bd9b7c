"""What a task declares is checked when its module is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from celery import Task, shared_task
from django.db import transaction

from orchestrator import OrchestratedTask, Retries, task
from orchestrator.celery import get_app
from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.engine import limits
from orchestrator.engine.redispatch import OurTask
from tests.support import zoo


def _nothing() -> None:
    """A body."""


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    """Celery's own decorator would set an attribute and say nothing."""
    with pytest.raises(UnknownOption, match=r"'retrys' for task '.*pay', did you mean 'retries'\?"):

        @task(name="t.pay", retrys=3)
        def pay() -> None: ...

    with pytest.raises(UnknownOption, match=r"did you mean 'soft_time_limit'\?"):

        @task(name="t.pay", soft_timelimit=3)
        def pay_again() -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 3}, r"retries=3 must be a Retries"),
        ({"sensitive": "card"}, r"sensitive='card' must be a tuple of argument names"),
        ({"sensitive": ("crad",)}, r"'crad' for sensitive of task 't.pay', did you mean 'card'\?"),
        ({"soft_time_limit": 9, "time_limit": 9}, r"soft_time_limit=9 must be less than time_limit=9"),
        ({"bury_expired": "yes"}, r"bury_expired='yes' must be True or False"),
    ],
)
def test_an_impossible_value_is_refused(options: dict[str, Any], message: str) -> None:
    """The message names the value and what would work."""
    with pytest.raises((InvalidOption, UnknownOption), match=message):

        @task(name="t.pay", **options)
        def pay(card: str) -> None: ...


@pytest.mark.parametrize(
    "options",
    [{"on": ()}, {"on": ("ConnectionError",)}, {"on": OSError, "limit": -1}, {"on": OSError, "base": -1.0}],
)
def test_retries_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    """A policy without an error, or with a negative number, is a mistake."""
    with pytest.raises(InvalidOption):
        Retries(**options)


def test_celerys_own_options_are_known() -> None:
    """Everything that Celery reads from a declaration may be declared."""
    from celery.app.task import extract_exec_options

    made = task(name="t.routed", queue="slow", priority=3, rate_limit="1/s", autoretry_for=(OSError,))(_nothing)
    read = extract_exec_options(made)
    assert (read["queue"], read["priority"]) == ("slow", 3)
    for name in read:
        task(name=f"t.reads.{name}", **{name: None})(_nothing)


def test_a_base_class_is_checked_when_it_is_defined() -> None:
    """Options of a base class are options, too."""
    with pytest.raises(InvalidOption, match="retries=3"):

        class PaymentTask(OrchestratedTask):
            abstract = True
            retries = 3  # type: ignore[assignment]


def test_shared_tasks_of_others_may_carry_attributes_of_their_own() -> None:
    """Only what looks like a slip of one of our options is refused."""
    kept = get_app().task(name="t.tagged", tags=("x",))(_nothing)
    assert kept.tags == ("x",)
    with pytest.raises(UnknownOption, match="did you mean 'sensitive'"):
        get_app().task(name="t.slip", sensitve=("x",))(_nothing)


def test_declared_retries_bound_celerys_own_retry() -> None:
    """``self.retry()`` in the body counts against the same limit."""
    assert zoo.flaky.max_retries == 2


@pytest.mark.parametrize(
    ("hard", "soft", "expected"),
    [
        (3, 1800, (3, None)),
        (1860, 4000, (4060.0, 4000)),
        (1860, 1800, (1860, 1800)),
        (30, 10, (30, 10)),
        (None, 1800, (None, 1800)),
        (5, 0, (5, None)),
        (None, None, (None, None)),
    ],
)
def test_what_was_asked_for_beats_inherited_limits(
    hard: float | None, soft: float | None, expected: tuple[float | None, float | None]
) -> None:
    """Celery starts the hard clock only after the soft limit, so the two must fit together."""
    assert limits.effective(hard, soft, 1800) == expected


def test_a_foreign_base_class_is_combined_with_ours() -> None:
    """A task on somebody's own base class keeps what that overrides and gets our guarantees."""

    class Theirs(Task):  # type: ignore[misc]
        abstract = True

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            """Theirs."""

    made = get_app().task(name="t.theirs", base=Theirs)(_nothing)
    assert isinstance(made, Theirs)
    assert isinstance(made, OurTask)
    assert type(made).before_start is Theirs.before_start


@shared_task
def plain_shared(x: int) -> int:
    """A third-party task, unchanged."""
    return x


def test_a_plain_shared_task_is_ours_without_a_changed_line() -> None:
    """Any app's ``@shared_task`` runs through the policies."""
    assert isinstance(get_app().tasks[plain_shared.name], OurTask)


@pytest.mark.django_db(transaction=True)
def test_delay_on_commit_returns_the_id_and_sends_on_commit_only(broker: Any) -> None:
    """The id is known before the message exists; a rollback leaves nothing."""
    import redis

    client = redis.Redis.from_url(broker.url)
    with transaction.atomic():
        result = zoo.add.delay_on_commit(1, 2)
        assert client.llen("celery") == 0
    assert result.id in client.lindex("celery", 0).decode()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        zoo.add.delay_on_commit(1, 2)
        raise ZeroDivisionError
    assert client.llen("celery") == 1


def test_pools_that_cannot_keep_declared_limits_refuse_to_start() -> None:
    """The message names the task, the pool and the way out."""
    import os

    from tests.support.process import MANAGE
    from tests.support.worker import platform_env

    env = {**os.environ, **{k: v for k, v in platform_env().items() if v is not None}}
    env["ORCHESTRATOR_TEST_IMPORTS"] = "tests.support.zoo_limits"
    ended = subprocess.run(
        [sys.executable, MANAGE, "worker", "--pool", "solo"], env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert "cannot keep time limits" in ended.stderr
    assert "tests.support.zoo_limits.softly" in ended.stderr
    assert "--pool swarm or --pool prefork" in ended.stderr
    assert "Traceback" not in ended.stderr
