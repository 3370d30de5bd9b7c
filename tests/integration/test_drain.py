"""From the stream into rows: each letter once, none lost, whatever is in it and whoever is away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from orchestrator import conf
from orchestrator.contracts import events
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Letter, WireMessage
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.deadletters.drain import Drain, source
from orchestrator.deadletters.models import DeadLetter
from orchestrator.stores.redis.letters import RedisLetterbox, RedisLetterSource
from orchestrator.stores.redis.streams import GROUP, RedisStream
from tests.conftest import Platform
from tests.support.broker import Broker
from tests.support.process import MANAGE, Process
from tests.support.wait import eventually
from tests.support.worker import Relay, platform_env

TABLE = DeadLetter._meta.db_table


def letter(task: str = "shop.ship", **changes: Any) -> Letter:
    values: dict[str, Any] = {
        "attempt_id": uuid4().hex,
        "verdict": Verdict.FAILED,
        "reason": Reason.FAILED,
        "task": task,
        "task_id": str(uuid4()),
        "message": WireMessage(b"[[1], {}, {}]", "application/json", "utf-8", {"task": task}, {}, queue="shop"),
        "error_type": "builtins.LookupError",
        "error_message": "no such order",
        "died_at": time.time(),
    }
    return Letter(**{**values, **changes})


def bury(*letters: Letter) -> None:
    settings = conf.settings()
    box = RedisLetterbox(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)
    for each in letters:
        box.bury(each)


def stream() -> RedisStream:
    return source().stream


def drained(batch: int = 100) -> int:
    """Drain everything in this process."""
    drain = Drain(source())
    total = 0
    while done := drain(batch, 0):
        total += done
    return total


@pytest.fixture
def filed() -> Iterator[list[events.LetterFiled]]:
    seen: list[events.LetterFiled] = []
    events.subscribe(events.LetterFiled, seen.append)
    yield seen
    events._subscribers[events.LetterFiled].remove(seen.append)


# --- one process -----------------------------------------------------------------------


def test_letters_become_rows_and_leave_the_stream(
    transactional_db: None, broker: Broker, filed: list[events.LetterFiled]
) -> None:
    letters = [letter(task=f"shop.task{n}") for n in range(7)]
    bury(*letters)
    assert drained(batch=3) == 7
    assert {row.key: row.message for row in DeadLetter.objects.all()} == {
        each.attempt_id: each.message for each in letters
    }
    assert stream().size() == 0
    assert {(event.task, event.reason) for event in filed} == {(each.task, "failed") for each in letters}
    assert {event.letter_id for event in filed} == {str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)}


def test_a_letter_that_comes_twice_is_one_row_and_one_event(
    transactional_db: None, broker: Broker, filed: list[events.LetterFiled]
) -> None:
    one = letter()
    bury(one, one)
    drained()
    bury(one)
    drained()
    assert DeadLetter.objects.count() == len(filed) == 1
    assert stream().size() == 0


def test_a_handled_letter_that_comes_again_stays_handled(transactional_db: None, broker: Broker) -> None:
    one = letter()
    bury(one)
    drained()
    DeadLetter.objects.update(state="discarded", note="done")
    bury(one)
    drained()
    assert list(DeadLetter.objects.values_list("state", "note")) == [("discarded", "done")]


def test_what_is_no_letter_is_kept_and_holds_nothing_up(transactional_db: None, broker: Broker) -> None:
    good = letter()
    bury(good)
    stream().append(b"\xff\x00 not a letter", b'{"v": 99}', b"\xff\x00 not a letter")
    bury(letter())
    assert drained() == 5
    assert stream().size() == 0
    raw = DeadLetter.objects.filter(reason=Reason.UNDECODABLE)
    assert sorted(row.message.body for row in raw) == [b'{"v": 99}', b"\xff\x00 not a letter", b"\xff\x00 not a letter"]
    assert DeadLetter.objects.filter(reason=Reason.FAILED).count() == 2


@pytest.fixture
def picky_table(transactional_db: None) -> Iterator[None]:
    """A table that refuses the task 'refused': loudly on PostgreSQL, in silence on SQLite, as each can."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                f"CREATE TRIGGER picky BEFORE INSERT ON {TABLE} WHEN NEW.task = 'refused' "
                "BEGIN SELECT RAISE(IGNORE); END"
            )
        else:
            cursor.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT picky CHECK (task <> 'refused')")
    yield
    with connection.cursor() as cursor:
        cursor.execute(
            "DROP TRIGGER picky" if connection.vendor == "sqlite" else f"ALTER TABLE {TABLE} DROP CONSTRAINT picky"
        )


def test_a_letter_that_the_database_refuses_is_filed_as_raw_bytes(picky_table: None, broker: Broker) -> None:
    refused = letter(task="refused")
    bury(letter(), refused, letter())
    assert drained() == 3
    assert stream().size() == 0
    assert DeadLetter.objects.filter(task="shop.ship").count() == 2
    row = DeadLetter.objects.get(reason=Reason.UNDECODABLE)
    assert Letter.loads(row.message.body) == refused
    assert "could not be filed" in row.error_message


def test_while_the_database_refuses_everything_letters_wait(transactional_db: None, broker: Broker) -> None:
    bury(letter(), letter())
    drain = Drain(source())
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {TABLE} RENAME TO elsewhere")
    try:
        with pytest.raises(Exception, match=TABLE):
            drain(10, 0)
        assert stream().size() == 2
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE elsewhere RENAME TO {TABLE}")
    assert drain(10, 0) == 2, "the same drain files what it held, without waiting to be handed it again"
    assert DeadLetter.objects.count() == 2
    assert stream().size() == 0


def test_letters_filed_while_redis_goes_away_are_settled_later(transactional_db: None, broker: Broker) -> None:
    class Cut(RedisLetterSource):
        """A real source whose server dies between filing and settling."""

        def take(self, limit: int, wait: float) -> Any:
            taken = super().take(limit, wait)
            if taken:
                broker.stop()
            return taken

    settings = conf.settings()
    drain = Drain(Cut(conf.state_url(), settings.key_prefix, settings.letterbox_timeout))
    bury(letter())
    try:
        with pytest.raises(StoreUnavailable):
            drain(10, 0)
        assert DeadLetter.objects.count() == 1
    finally:
        broker.start()
    drain(10, 0)
    assert stream().size() == 0
    assert DeadLetter.objects.count() == 1


# --- relays ----------------------------------------------------------------------------


def ready(relay: Relay) -> Relay:
    relay.wait_for_log("Relay ready")
    return relay


def all_filed(letters: list[Letter]) -> bool:
    return DeadLetter.objects.count() == len(letters) and stream().size() == 0


def test_a_relay_files_a_letter_within_a_second(platform: Platform) -> None:
    ready(platform.relay())
    delays = []
    for _ in range(9):
        one = letter()
        bury(one)
        row = eventually(lambda one=one: DeadLetter.objects.filter(key=one.attempt_id).first())
        delays.append(row.filed_at.timestamp() - one.died_at)
    # The median, because a busy machine may hold up one of them for longer.
    assert statistics.median(delays) < 1


def test_two_relays_file_every_letter_once(platform: Platform) -> None:
    letters = [letter() for _ in range(400)]
    bury(*letters)
    relays = [platform.relay(options=("--batch", "7")) for _ in range(2)]
    eventually(lambda: all_filed(letters), 60, lambda: f"{DeadLetter.objects.count()} rows, {stream().size()} waiting")
    assert set(DeadLetter.objects.values_list("key", flat=True)) == {each.attempt_id for each in letters}
    # One may have done it all before the other could listen for signals.
    assert [ready(relay).stop() for relay in relays] == [0, 0]


def test_a_relay_killed_while_draining_loses_and_doubles_nothing(platform: Platform) -> None:
    letters = [letter() for _ in range(600)]
    bury(*letters)
    first = platform.relay(options=("--batch", "3"))
    eventually(lambda: DeadLetter.objects.count() > 30, 60)
    first.kill()
    first.wait()
    filed = DeadLetter.objects.count()
    assert filed < 600, "it was killed too late to show anything"
    platform.relay()
    eventually(lambda: all_filed(letters), 60, lambda: f"{DeadLetter.objects.count()} rows, {stream().size()} waiting")
    assert set(DeadLetter.objects.values_list("key", flat=True)) == {each.attempt_id for each in letters}


def test_a_relay_ends_in_order_and_leaves_no_reader_behind(platform: Platform) -> None:
    bury(letter())
    relay = ready(platform.relay())
    eventually(lambda: stream().size() == 0)
    assert platform.broker.client.xinfo_consumers(stream().key, GROUP)
    assert relay.stop(timeout=20) == 0
    assert "Relay ended in order." in relay.log
    assert platform.broker.client.xinfo_consumers(stream().key, GROUP) == []


def test_a_relay_outlives_redis_and_tells_it_once(platform: Platform) -> None:
    relay = ready(platform.relay())
    bury(letter())
    eventually(lambda: DeadLetter.objects.count() == 1)
    platform.broker.stop()
    try:
        relay.wait_for_log("Letters: waiting, nothing is lost.*ORCHESTRATOR_STATE_URL")
    finally:
        platform.broker.start()
    bury(letter())
    eventually(lambda: DeadLetter.objects.count() == 2, 60, relay.tail)
    relay.wait_for_log("Letters: going on again")
    assert relay.log.count("Letters: waiting") == 1
    assert "Traceback" not in relay.log


@pytest.mark.sqlite
def test_letters_wait_for_a_database_that_is_not_there_yet(platform: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    url = f"sqlite:///{folder / 'db.sqlite3'}"
    bury(letter(), letter())
    relay = platform.start(Relay(env={"DATABASE_URL": url}))
    relay.wait_for_log("Letters: waiting, nothing is lost.")
    assert stream().size() == 2
    folder.mkdir()
    env = {**platform_env(), "DATABASE_URL": url}
    command = ["python", MANAGE, "migrate", "--verbosity", "0"]
    assert platform.start(Process(command, name="migrate", directory=tmp_path, env=env)).wait() == 0
    eventually(lambda: stream().size() == 0, 60, relay.tail)
    relay.wait_for_log("Letters: going on again")
    # One line a change of state: no folder, then no table, not one a try.
    assert relay.log.count("Letters: waiting") <= 2


def test_once_files_everything_and_ends(platform: Platform) -> None:
    letters = [letter() for _ in range(25)]
    bury(*letters)
    relay = platform.relay(options=("--once", "--batch", "10"))
    assert relay.wait() == 0
    assert "filed 25, sent 0, resumed 0, pruned 0" in relay.log
    assert all_filed(letters)


@pytest.mark.parametrize(
    ("options", "env", "says"),
    [
        (("--batch", "0"), {}, "--batch 0: give a whole number"),
        (
            ("--once",),
            {"ORCHESTRATOR_STATE_URL": "redis://127.0.0.1:1/0"},
            "could not finish; nothing is lost.*127.0.0.1:1",
        ),
    ],
)
def test_a_relay_that_cannot_work_says_why(
    platform: Platform, options: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    relay = platform.relay(options=options, env=env)
    assert relay.wait() == 1
    assert relay.wait_for_log(f"CommandError: .*{says}")
