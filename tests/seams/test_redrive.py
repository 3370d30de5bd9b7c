"""A redriven message goes on where it died: callbacks, chains, groups and chords."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, chord, group
from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.contracts.errors import PayloadIncompatible, TaskMissing
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from tests.support import far_side
from tests.support.endings import raw
from tests.support.wait import eventually, stays
from tests.support.worker import ROWS_AT_ONCE, Relay, Worker
from tests.support.zoo import add, collect, flaky, follow, secretive, until_mended

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def processes(shared: Any) -> Iterator[tuple[Worker, Relay]]:
    """One worker and one relay for all tests here: starting them is the slow part."""
    with shared(Worker(concurrency=2, env=ROWS_AT_ONCE), Relay()) as processes:
        yield processes


@pytest.fixture
def running(processes: tuple[Worker, Relay], transactional_db: None) -> tuple[Worker, Relay]:
    """Running processes, an empty database, nothing on the far side."""
    far_side.clear()
    return processes


def letter(**filters: Any) -> DeadLetter:
    """Return the one open letter, once it is there."""
    return eventually(lambda: DeadLetter.objects.filter(state=State.OPEN, **filters).first(), message=f"{filters}")


def mend(key: str) -> None:
    """Let ``until_mended`` succeed from now on."""
    far_side.record(f"mended:{key}")


def result(task_id: str) -> Any:
    """Return the result row of a task that ended well, once it is there."""
    return eventually(lambda: TaskResult.objects.filter(task_id=task_id, status="SUCCESS").first(), message=task_id)


def test_a_redriven_task_succeeds_under_a_new_id(running: tuple[Worker, Relay]) -> None:
    """The letter is closed, knows the new id, and the failed run keeps its own row."""
    old = until_mended.delay("a")
    row = letter()
    mend("a")
    new = services.redrive(row.pk)
    assert result(new).result == '"mended"'
    row.refresh_from_db()
    assert (row.state, row.redriven_as) == (State.REDRIVEN, new)
    assert TaskResult.objects.get(task_id=old.id).status == "FAILURE"


def test_a_redrive_has_a_fresh_retry_budget_and_tells_where_it_came_from(running: tuple[Worker, Relay]) -> None:
    """It is retried as often as the first time; its next letter names the first."""
    old = flaky.delay("b")
    row = letter()
    new = services.redrive(row.pk)
    second = letter(task_id=new)
    assert second.redrive_of == old.id
    assert (second.retries, len(second.history)) == (2, 2)
    assert len(far_side.effects("b")) == 6


def test_a_chain_goes_on_after_its_redriven_member(running: tuple[Worker, Relay]) -> None:
    """What came after the dead member runs with the redriven value."""
    chain(add.s(1, 1), until_mended.si("c", value=7), follow.s("after"), follow.s("last")).delay()
    row = letter()
    mend("c")
    services.redrive(row.pk)
    assert eventually(lambda: far_side.effects("last"))[0]["value"] == 7
    assert len(far_side.effects("after")) == 1


def test_a_callback_follows_a_redriven_task(running: tuple[Worker, Relay]) -> None:
    """``link`` is kept."""
    until_mended.apply_async(("d",), link=follow.s("linked"))
    row = letter()
    mend("d")
    services.redrive(row.pk)
    assert eventually(lambda: far_side.effects("linked"))[0]["value"] == "mended"


def test_a_group_knows_its_redriven_member(running: tuple[Worker, Relay]) -> None:
    """A saved group counts the new run of a member that died."""
    members = group(add.s(1, 2), until_mended.s("e"), add.s(3, 4)).delay()
    members.save()
    row = letter()
    mend("e")
    new = services.redrive(row.pk)
    result(new)
    saved = get_app().GroupResult.restore(members.id)
    assert [member.id for member in saved.results][1] == new
    assert eventually(saved.successful)
    assert saved.get(timeout=10) == [3, "mended", 7]


def test_a_chord_body_runs_once_after_its_members_were_redriven(running: tuple[Worker, Relay]) -> None:
    """Two members die; the body starts only when both redrives have succeeded, with all values in order."""
    body = chord(
        [add.s(1, 1), until_mended.s("f", value=20), add.s(2, 2), until_mended.s("g", value=40)],
        collect.s(key="body"),
    ).delay()
    eventually(lambda: DeadLetter.objects.filter(state=State.OPEN).count() == 2)
    first, second = DeadLetter.objects.order_by("args_repr")
    eventually(lambda: TaskResult.objects.filter(task_id=body.id, status="FAILURE").exists())
    mend("f")
    result(services.redrive(first.pk))
    assert not far_side.effects("body")
    mend("g")
    services.redrive(second.pk)
    assert result(body.id).result == "[2, 20, 4, 40]"
    stays(lambda: len(far_side.effects("body")) == 1, 1.0)


def test_a_chord_member_that_dies_before_its_siblings_end_can_be_redriven_at_once(
    running: tuple[Worker, Relay],
) -> None:
    """The chord waits for the new id instead of failing over the old one."""
    slow = until_mended.s("slow", value=1)
    body = chord([until_mended.s("h", value=5), slow], collect.s(key="body")).delay()
    eventually(lambda: DeadLetter.objects.filter(state=State.OPEN).count() == 2)
    mend("h")
    mend("slow")
    for row in DeadLetter.objects.filter(state=State.OPEN):
        services.redrive(row.pk)
    assert result(body.id).result == "[5, 1]"
    assert len(far_side.effects("body")) == 1


def test_a_message_published_twice_by_its_redrive_runs_once(running: tuple[Worker, Relay]) -> None:
    """A redrive that was cut off and taken up again publishes twice; one copy starts."""
    until_mended.delay("i")
    row = letter()
    mend("i")
    for nonce in ("first", "second"):
        get_app().redrive(row.message, task_id="same", letter_id=str(row.pk), redrive_of=row.task_id, nonce=nonce)
    result("same")
    stays(lambda: len(far_side.effects("i")) == 2, 1.5, "one failed run, one redriven run")


def test_edited_arguments_run_instead_and_stay_redacted(running: tuple[Worker, Relay]) -> None:
    """The edit is checked, kept as a redacted difference, and what runs is the edited message."""
    secretive.delay(5, "4111222233334444", fail=True)
    row = letter()
    new = services.redrive(row.pk, args=[5, "5500000000000004"], kwargs={"fail": False})
    assert result(new).result == '"ok"'
    row.refresh_from_db()
    assert "5500000000000004" not in str(row.edits)
    assert "5500000000000004" not in TaskResult.objects.get(task_id=new).task_args


def test_edited_arguments_that_do_not_fit_change_nothing(running: tuple[Worker, Relay]) -> None:
    """The error names the signature; the letter stays open."""
    until_mended.delay("j")
    row = letter()
    with pytest.raises(PayloadIncompatible, match=r"key"):
        services.redrive(row.pk, args=[], kwargs={"wrong": 1})
    row.refresh_from_db()
    assert row.state == State.OPEN


def test_an_unknown_task_is_not_redriven(running: tuple[Worker, Relay]) -> None:
    """A redrive would only bring it back; the error tells what to do."""
    get_app().send_task("tests.support.zoo.gone", (1,))
    row = letter()
    with pytest.raises(TaskMissing, match="gone"):
        services.redrive(row.pk)
    row.refresh_from_db()
    assert row.state == State.OPEN


def test_an_old_protocol_message_is_redriven_too(running: tuple[Worker, Relay]) -> None:
    """Protocol 1 keeps task and id in the body."""
    import json

    body = {"task": until_mended.name, "id": "v1-old", "args": ["k"], "kwargs": {}, "retries": 0}
    with get_app().producer_or_acquire() as producer:
        producer.publish(
            json.dumps(body).encode(),
            exchange="",
            routing_key="celery",
            content_type="application/json",
            content_encoding="utf-8",
        )
    row = letter()
    assert (row.task, row.task_id) == (until_mended.name, "v1-old")
    mend("k")
    assert result(services.redrive(row.pk)).result == '"mended"'


def test_an_undecodable_message_is_kept_for_a_byte_for_byte_redrive(running: tuple[Worker, Relay]) -> None:
    """It comes back as it was, which shows that not a byte was lost."""
    raw(b'[["broken"', task=add.name, retries=0)
    row = letter()
    new = services.redrive(row.pk)
    again = letter(task_id=new)
    assert again.message.body == b'[["broken"'


def test_a_worker_outlives_an_id_that_no_database_takes(running: tuple[Worker, Relay]) -> None:
    """Its letter is filed; that its failure cannot be among the results ends no worker."""
    get_app().send_task("long.gone\0", task_id="half \ud800 nul \0 long " + "x" * 300)
    assert letter(reason="unknown_task").task == r"long.gone\x00"
    result = add.delay(1, 2)
    eventually(lambda: TaskResult.objects.filter(task_id=result.id, status="SUCCESS").exists())
    assert "Unrecoverable error" not in running[0].log
