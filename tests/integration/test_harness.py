"""The harness itself: what every other test leans on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
from django.contrib.auth import get_user_model

from tests.support import database, environment, far_side
from tests.support.process import MANAGE, Process
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import platform_env


def test_broker_is_private_and_empty(broker):
    assert broker.client.dbsize() == 0
    assert str(environment.directory()) in str(broker.client.config_get("dir"))


def test_broker_keeps_its_data_when_killed(tmp_path):
    from tests.support.broker import Broker

    broker = Broker(tmp_path).start()
    broker.client.lpush("queue", "message")
    first = broker.url
    broker.kill()
    broker.start()
    assert broker.url == first
    assert broker.client.lrange("queue", 0, -1) == [b"message"]
    broker.stop()


@pytest.mark.django_db(transaction=True)
def test_a_subprocess_sees_committed_rows():
    get_user_model().objects.create_user("reader")
    script = "from django.contrib.auth import get_user_model as m; print(list(m().objects.values_list('username')))"
    env = {key: value for key, value in {**os.environ, **platform_env()}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, MANAGE, "shell", "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert "('reader',)" in done.stdout
    assert database.live_url() == env["DATABASE_URL"]


def test_far_side_counts_effects_of_several_processes(tmp_path):
    far_side.clear()
    script = "from tests.support import far_side; [far_side.record('k', n=n) for n in range(50)]"
    processes = [Process(["python", "-c", script], name=f"writer{n}", directory=tmp_path).start() for n in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert far_side.counts() == {"k": 150}
    far_side.clear()
    assert far_side.effects() == []


def test_a_process_that_dies_early_is_reported_with_its_log(tmp_path):
    process = Process(
        ["python", "-c", "print('last words'); raise SystemExit(3)"], name="dies", directory=tmp_path, ready="never"
    )
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3 .*last words"):
        process.start()


def test_stopping_a_process_takes_its_children_along(tmp_path):
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '300']); print('up'); time.sleep(300)"
    process = Process(["python", "-c", script], name="parent", directory=tmp_path, ready="up").start()
    (child,) = eventually(process.children)
    assert process.stop() == -signal.SIGTERM
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_eventually_says_what_it_waited_for():
    with pytest.raises(NeverHappened, match=r"not within 0.05 s: pigs fly; last seen: 0"):
        eventually(lambda: 0, 0.05, "pigs fly")


def test_a_skip_fails_in_ci_and_is_a_skip_elsewhere(tmp_path):
    (tmp_path / "test_skipping.py").write_text("import pytest\ndef test_it():\n    pytest.skip('no reason')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", tmp_path]
    command += ["-p", "tests.conftest", "--ds", "tests.settings", tmp_path / "test_skipping.py"]
    for ci, expected in (("true", "1 failed"), ("", "1 skipped")):
        env = {**environment.outside(), "CI": ci}
        done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True, check=False)
        assert expected in done.stdout, done.stdout + done.stderr
