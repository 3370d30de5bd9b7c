"""``manage.py demo`` as a person runs it, and as it ends when something is in its way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.management import CommandError, call_command

from tests.support import environment
from tests.support.process import MANAGE, Process
from tests.support.wait import eventually


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """The environment of a project whose broker and database must not be touched, with a temp directory to inspect."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return {
        **environment.outside(),
        "TMPDIR": str(temporary),
        "ORCHESTRATOR_DATA_DIR": str(tmp_path / "real"),
        "ORCHESTRATOR_BROKER_URL": "redis://127.0.0.1:1/0",
        "ORCHESTRATOR_STATE_URL": "redis://127.0.0.1:1/1",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'real.sqlite3'}",
    }


def demo(env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, MANAGE, "demo", *options], env=env, capture_output=True, text=True, timeout=170, check=False
    )


def left_behind(env: dict[str, str]) -> list[str]:
    """Return processes and files of a demo that ran in these surroundings."""
    found = [f"{path}" for path in Path(env["TMPDIR"]).iterdir()]
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("TMPDIR", "").startswith(env["TMPDIR"]):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_all_of_it_is_seen_and_nothing_stays(surroundings: dict[str, str], tmp_path: Path) -> None:
    done = demo(surroundings, "--json", "--timeout", "150")
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["ok"] is True
    parts = seen["parts"]
    assert parts["email"] == {
        "ok": True,
        "recipients": 50,
        "delivered": 50,
        "delivered_once": 50,
        "greylisted_and_retried": 3,
    }
    assert parts["report"]["ordered_by_scheduler"] >= 2
    assert parts["report"]["pages"] >= parts["report"]["written"] >= 2
    assert (parts["video"]["renditions"], parts["video"]["thumbnails"]) == (2, 1)
    assert parts["video"]["percentages_seen"] >= 3
    letter = parts["dead_letter"]
    assert (letter["reason"], letter["attempts"], letter["history"]) == ("retries_exhausted", 4, 3)
    assert (letter["redriven"], letter["succeeded"]) == (1, 1)
    payments = parts["payments"]
    assert payments["ok"] and payments["most_in_a_second"] <= 6
    assert payments["waited_for_the_rate"] + payments["waited_for_the_slot"] > 0
    wanted = {"charge_asked_for": 2, "charged": 1, "receipts": 1, "others": 10, "others_charged": 10, "most_at_once": 1}
    wanted |= {"statement_asked_for": 5, "told_duplicates": 4, "statements": 1}
    assert payments | wanted == payments
    assert left_behind(surroundings) == []
    assert not (tmp_path / "real.sqlite3").exists()


def test_what_was_not_seen_is_named_with_the_logs(surroundings: dict[str, str]) -> None:
    done = demo(surroundings, "--json", "--timeout", "0.1")
    assert done.returncode == 1
    seen = json.loads(done.stdout)
    assert seen["ok"] is False
    assert any(text.startswith("PDF report") for text in seen["missing"])
    assert "end of worker's log" in done.stderr
    assert "Not seen: PDF report" in done.stderr
    assert left_behind(surroundings) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_it_half_way_leaves_nothing(
    surroundings: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process = Process(["python", MANAGE, "demo"], name="demo", directory=tmp_path, env=dict(surroundings)).start()
    process.wait_for_log(r"E-mail campaign: \d+ delivered", timeout=90)
    os.kill(process.pid, number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 130)
    if number == signal.SIGKILL:
        eventually(lambda: not left_behind(surroundings), 30, lambda: f"gone: {left_behind(surroundings)}")
    assert left_behind(surroundings) == []


@pytest.mark.parametrize(("module", "extra"), [("aiosmtpd", "demo"), ("reportlab", "pdf"), ("imageio_ffmpeg", "video")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CommandError, match=rf"needs {module}: pip install 'django-orchestrator\[{extra}\]'"):
        call_command("demo")


def test_without_the_reference_project_it_says_where_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tasks.email", None)
    with pytest.raises(CommandError, match="run it in a clone of the repository"):
        call_command("demo")


def test_a_timeout_that_cannot_work_is_refused() -> None:
    with pytest.raises(CommandError, match="'-3' is no number of seconds above 0"):
        call_command("demo", "--timeout=-3")
