"""The durable stream: every record is handed out at least once, whoever dies, and counted until it is settled."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from orchestrator.contracts.errors import LetterboxUnavailable, StoreUnavailable
from orchestrator.contracts.message import Letter, WireMessage
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.contracts.ports import Letterbox
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.letters import RedisLetterbox, RedisLetterSource
from orchestrator.stores.redis.streams import GROUP, RedisStream, StreamSource
from tests.support.broker import Broker
from tests.support.wait import eventually

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def stream(broker: Broker) -> RedisStream:
    return RedisStream(broker.url, f"test:{uuid4().hex}", timeout=5)


def drain(source: StreamSource, limit: int = 100) -> list[bytes]:
    """Take and settle until nothing comes."""
    seen: list[bytes] = []
    while taken := source.take(limit, 0):
        seen += [record for _, record in taken]
        source.settle([receipt for receipt, _ in taken])
    return seen


def letter(task: str = "shop.ship") -> Letter:
    return Letter(
        attempt_id=uuid4().hex,
        verdict=Verdict.FAILED,
        reason=Reason.FAILED,
        task=task,
        task_id=str(uuid4()),
        message=WireMessage(b"[[1],{},{}]", "application/json", "utf-8", {"task": task}, {}),
        died_at=time.time(),
    )


def test_records_come_out_as_they_went_in_and_in_order(stream: RedisStream) -> None:
    records = [b"", b"\x00\xff", "ü".encode(), b"x" * 100_000]
    stream.append(*records[:2])
    stream.append(records[2])
    stream.append(records[3])
    assert drain(StreamSource(stream)) == records
    assert stream.size() == 0


def test_an_unsettled_record_is_counted_and_not_handed_to_a_second_reader_at_once(stream: RedisStream) -> None:
    stream.append(b"a")
    first, second = StreamSource(stream), StreamSource(stream)
    held = first.take(100, 0)
    assert second.take(10, 0) == second.take(10, 0.05) == []
    assert second.waiting() == 1
    first.settle([receipt for receipt, _ in held])
    assert second.waiting() == 0


def test_two_readers_share_the_records_each_once(stream: RedisStream) -> None:
    expected = [str(n).encode() for n in range(500)]
    stream.append(*expected)
    readers = [StreamSource(stream), StreamSource(stream)]
    seen: list[bytes] = []
    while reader_got := [taken for reader in readers if (taken := reader.take(7, 0))]:
        for batch in reader_got:
            seen += [record for _, record in batch]
    assert sorted(seen) == sorted(expected)


def _take_and_hang(url: str, key: str, ready: Callable[[], None]) -> None:
    source = StreamSource(RedisStream(url, key, timeout=5))
    source.take(3, 0)
    ready()
    signal.pause()


def test_what_a_killed_reader_held_goes_to_another(stream: RedisStream, broker: Broker) -> None:
    expected = [b"a", b"b", b"c", b"d"]
    stream.append(*expected)
    holding = FORK.Event()
    child = FORK.Process(target=_take_and_hang, args=(broker.url, stream.key, holding.set))
    child.start()
    assert holding.wait(30)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(30)
    assert child.exitcode == -signal.SIGKILL

    source = StreamSource(stream, reclaim_seconds=0.2)
    seen: list[bytes] = []

    def all_seen() -> bool:
        seen.extend(record for _, record in source.take(10, 0))
        return sorted(set(seen)) == expected  # a slow reader may be handed its own again

    eventually(all_seen, 30, lambda: f"all four records, not {seen}")


def test_reclaiming_reaches_every_record_of_a_dead_reader_however_small_the_batch(stream: RedisStream) -> None:
    expected = [f"{n:03}".encode() for n in range(60)]
    stream.append(*expected)
    dead = StreamSource(stream)
    assert len(dead.take(100, 0)) == 60
    heir = StreamSource(stream, reclaim_seconds=0.05)
    seen: set[bytes] = set()

    def all_seen() -> bool:
        got = heir.take(4, 0)
        seen.update(record for _, record in got)
        heir.settle([receipt for receipt, _ in got])
        return heir.waiting() == 0

    eventually(all_seen, 30)
    assert seen == set(expected)


def test_settling_twice_and_settling_nothing_do_no_harm(stream: RedisStream) -> None:
    stream.append(b"a", b"b")
    source = StreamSource(stream)
    (first, _), _ = source.take(100, 0)
    source.settle([])
    source.settle([first])
    source.settle([first])
    assert source.waiting() == 1


def test_a_reader_that_ends_leaves_no_name_behind_unless_it_holds_records(stream: RedisStream, broker: Broker) -> None:
    stream.append(b"a")
    holder, idle = StreamSource(stream), StreamSource(stream)
    held = holder.take(100, 0)
    idle.take(1, 0)
    holder.close()
    idle.close()
    names = [info["name"].decode() for info in broker.client.xinfo_consumers(stream.key, GROUP)]
    assert names == [holder.reader], "a reader with records must stay known, or its records are lost"
    holder.settle([receipt for receipt, _ in held])
    holder.close()
    assert broker.client.xinfo_consumers(stream.key, GROUP) == []


def test_closing_before_anything_was_read_is_fine(stream: RedisStream) -> None:
    StreamSource(stream).close()


def test_waiting_for_a_record_ends_as_soon_as_it_comes(stream: RedisStream, broker: Broker) -> None:
    source = StreamSource(stream)
    source.take(1, 0)  # makes the group
    child = FORK.Process(target=_append_when_read, args=(broker.url, stream.key))
    child.start()
    started = time.monotonic()
    got = source.take(1, 30)
    child.join(30)
    assert [record for _, record in got] == [b"late"]
    assert time.monotonic() - started < 20


def _append_when_read(url: str, key: str) -> None:
    """Write once a reader blocks on the stream."""
    connection = client(url, 5)

    def blocked() -> bool:
        return any(info["cmd"] == "xreadgroup" and "b" in info["flags"] for info in connection.client_list())

    eventually(blocked)
    RedisStream(url, key).append(b"late")


def test_a_stream_that_the_server_lost_is_made_again(stream: RedisStream, broker: Broker) -> None:
    source = StreamSource(stream)
    source.take(1, 0)
    broker.client.delete(stream.key)
    stream.append(b"after")
    assert drain(source) == [b"after"]


def test_an_entry_without_our_field_is_handed_out_whole(stream: RedisStream, broker: Broker) -> None:
    broker.client.xadd(stream.key, {"stranger": "x"})
    assert drain(StreamSource(stream)) == [b'{"stranger": "x"}']


def test_a_client_is_safe_on_both_sides_of_a_fork(stream: RedisStream) -> None:
    stream.append(b"parent")  # opens the parent's connection

    def write(name: bytes) -> None:
        for n in range(200):
            stream.append(name + str(n).encode())

    children = [FORK.Process(target=write, args=(name,)) for name in (b"a", b"b", b"c")]
    for child in children:
        child.start()
    for _ in range(200):
        assert stream.size() >= 1  # a mixed-up reply would be something else than a number
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert stream.size() == 601


def test_one_client_a_process_and_url(broker: Broker) -> None:
    assert client(broker.url, 5) is client(broker.url, 5)
    assert client(broker.url, 5) is not client(broker.url, 6)


def test_a_letterbox_stores_a_letter_before_it_returns(broker: Broker) -> None:
    box = RedisLetterbox(broker.url, "test:", 5)
    assert isinstance(box, Letterbox)
    buried = letter()
    box.bury(buried)
    assert broker.client.xlen("test:letters") == 1
    (raw,) = drain(RedisLetterSource(broker.url, "test:", 5))
    assert Letter.loads(raw) == buried


def test_a_missing_redis_is_said_in_time_with_the_way_out() -> None:
    url = f"redis://somebody:s3cret@127.0.0.1:{free_port()}/0"
    started = time.monotonic()
    with pytest.raises(LetterboxUnavailable, match=r"shop\.ship.*ORCHESTRATOR_STATE_URL") as refused:
        RedisLetterbox(url, "test:", 1).bury(letter())
    assert time.monotonic() - started < 3
    assert "s3cret" not in str(refused.value)


def test_a_redis_that_does_not_answer_is_given_up_after_the_timeout(broker: Broker) -> None:
    box = RedisLetterbox(broker.url, "test:", 0.5)
    box.bury(letter())
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(LetterboxUnavailable):
            box.bury(letter())
        assert time.monotonic() - started < 5
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def test_a_redis_that_refuses_writes_is_unavailable(broker: Broker) -> None:
    broker.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(LetterboxUnavailable, match="maxmemory"):
            RedisLetterbox(broker.url, "test:", 5).bury(letter())
    finally:
        broker.client.config_set("maxmemory", 0)


def test_the_first_write_after_a_restart_of_redis_succeeds(broker: Broker, stream: RedisStream) -> None:
    stream.append(b"before")
    broker.stop()
    with pytest.raises(StoreUnavailable):
        stream.append(b"never")
    broker.start()
    stream.append(b"after")
    assert drain(StreamSource(stream)) == [b"before", b"after"]
