"""The business tasks on a real worker: what arrives, what is shown, and what is left when they are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import connection
from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter
from orchestrator.demo.events import Watcher
from tasks import email, ffmpeg, media
from tests.support.mailserver import MailServer
from tests.support.wait import eventually

IMPORTS = {"ORCHESTRATOR_TEST_IMPORTS": "tasks.email,tasks.media"}
ADDRESSES = [f"person-{number:02d}@example.com" for number in range(12)]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def mailserver() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def directory(settings: Any) -> Path:
    """The media directory, which worker and test share."""
    root = Path(settings.MEDIA_ROOT)
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return root


@pytest.fixture
def watcher(platform: Any) -> Iterator[Watcher]:
    watching = Watcher()
    watching.start(30)
    yield watching
    watching.stop()


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that takes much longer to transcode than any limit here."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    picture = "testsrc2=size=640x480:rate=25:duration=150"
    ffmpeg.run(["-f", "lavfi", "-i", picture, *media.H264, "-preset", "ultrafast", path])
    return path


@pytest.fixture
def long_source(long_video: Path, directory: Path) -> str:
    """The same, where tasks look for it."""
    (directory / "incoming").mkdir(parents=True)
    shutil.copy(long_video, directory / "incoming" / "long.mp4")
    return "incoming/long.mp4"


def mailing(server: MailServer) -> dict[str, str]:
    return {**IMPORTS, "ORCHESTRATOR_EMAIL_HOST": server.host, "ORCHESTRATOR_EMAIL_PORT": str(server.port)}


def finished(task_id: str, timeout: float = 60.0) -> Any:
    """Wait for the end of a task and return its result."""
    result = get_app().AsyncResult(task_id)
    eventually(result.ready, timeout, lambda: f"{task_id} ends; it is {result.state}")
    return result


# --- e-mail -----------------------------------------------------------------------


def test_a_campaign_reaches_everybody_once(platform: Any, mailserver: MailServer) -> None:
    platform.worker(concurrency=2, env=mailing(mailserver))
    doubled = [*ADDRESSES, ADDRESSES[0].upper(), f" {ADDRESSES[1]} "]
    sent = email.send_campaign.delay(campaign="spring", subject="Hi", body="Text", recipients=doubled)
    assert finished(sent.id).result == {"campaign": "spring", "messages": len(ADDRESSES)}
    done = TaskResult.objects.filter(task_name="tasks.email.send_message", status="SUCCESS")
    eventually(lambda: done.count() == len(ADDRESSES), 60)
    assert sorted(str(message["To"]).lower() for message in mailserver.messages) == ADDRESSES
    assert len({message["Message-ID"] for message in mailserver.messages}) == len(ADDRESSES)


def test_a_refused_recipient_lies_in_the_inbox_and_nobody_reads_the_address(
    platform: Any, mailserver: MailServer
) -> None:
    address = ADDRESSES[0]
    mailserver.replies["rcpt"] = f"550 5.1.1 <{address}> unknown here"
    worker, relay = platform.worker(env=mailing(mailserver)), platform.relay()
    sent = email.send_campaign.delay(campaign="spring", subject="Hi", body="Text", recipients=[address])
    finished(sent.id)
    letter = eventually(lambda: DeadLetter.objects.filter(task="tasks.email.send_message").first(), 60)
    assert letter is not None
    assert (letter.reason, letter.retries) == ("permanent_error", 0)
    assert "550 5.1.1" in letter.error_message
    assert address in letter.payload
    assert _tables_with(address) == {"orchestrator_deadletters_deadletter.payload"}
    assert address not in worker.log + relay.log
    mailserver.replies.clear()
    assert finished(services.redrive(letter.pk, actor="test")).state == "SUCCESS"
    assert [message["To"] for message in mailserver.messages] == [address]


def _tables_with(text: str) -> set[str]:
    """Return table.column of every value in the database that contains a text."""
    found = set()
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            columns = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                found |= {f"{table}.{name}" for name, value in zip(columns, row, strict=True) if text in str(value)}
    return found


# --- video ------------------------------------------------------------------------


def test_a_video_becomes_two_renditions_and_a_thumbnail(platform: Any, directory: Path, watcher: Watcher) -> None:
    media.render_test_video("incoming/clip.mp4", seconds=12)
    platform.worker(concurrency=2, env=IMPORTS)
    first = finished(media.pipeline("incoming/clip.mp4").delay().id)
    assert first.state == "SUCCESS", first.result
    manifest = json.loads((directory / first.result["manifest"]).read_text())
    assert manifest["source"] == "incoming/clip.mp4"
    sizes = {file["path"]: ffmpeg.frame_size(ffmpeg.describe(directory / file["path"])) for file in manifest["files"]}
    assert sorted(size for size in sizes.values() if size) == [(320, 240), (480, 360), (640, 480)]
    for file in manifest["files"][: len(media.HEIGHTS)]:
        seconds = ffmpeg.duration(ffmpeg.describe(directory / file["path"]))
        assert seconds == pytest.approx(12, abs=0.2)
    # Events come by a way of their own and may arrive after the result.
    eventually(lambda: [seen[-1] for seen in _progress(watcher)] == [100, 100], 20, lambda: f"{_progress(watcher)}")
    assert all(seen == sorted(seen) for seen in _progress(watcher))
    assert len({percent for seen in _progress(watcher) for percent in seen}) >= 3

    changed = {path: path.stat().st_mtime_ns for path in directory.rglob("*p.mp4")}
    assert finished(media.pipeline("incoming/clip.mp4").delay().id).state == "SUCCESS"
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*p.mp4")} == changed


def _progress(watcher: Watcher) -> list[list[int]]:
    return list(watcher.progress("tasks.media.transcode").values())


def test_progress_is_in_the_result_while_it_runs(platform: Any, directory: Path, long_source: str) -> None:
    video = media.probe(long_source)
    platform.worker(env=IMPORTS)
    sent = media.transcode.delay(video, height=360)
    result = get_app().AsyncResult(sent.id)
    eventually(lambda: result.state == "PROGRESS", 60)
    seen = result.info
    assert seen["total"] == 150
    assert 0 <= seen["percent"] == int(seen["current"] / 150 * 100) <= 100
    assert seen["message"] == "360p"
    result.revoke(terminate=True)


def _encoders() -> list[psutil.Process]:
    """Return the ffmpeg processes that write into this run's media directory."""
    program, here = Path(ffmpeg.program()).name, os.environ["ORCHESTRATOR_DATA_DIR"]
    running = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line and Path(line[0]).name == program and any(here in part for part in line):
            running.append(process)
    return running


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        ({"soft_time_limit": 3, "time_limit": 60}, ["soft_time_limit"]),
        # Both at once: no time to clean up is left, and either may be the first to be seen.
        ({"soft_time_limit": 3, "time_limit": 3}, ["time_limit", "soft_time_limit"]),
    ],
)
def test_a_time_limit_ends_ffmpeg_and_leaves_no_rendition(
    platform: Any, directory: Path, long_source: str, limits: dict[str, int], reasons: list[str]
) -> None:
    video = media.probe(long_source)
    platform.worker(env=IMPORTS)
    platform.relay()
    sent = media.transcode.apply_async((video,), {"height": 360}, **limits)
    eventually(_encoders, 60, "ffmpeg runs")
    letter = eventually(lambda: DeadLetter.objects.filter(task_id=sent.id).first(), 90)
    assert letter is not None
    assert letter.reason in reasons
    eventually(lambda: not _encoders(), 20, "ffmpeg is gone")
    assert _renditions(directory) == []
    if len(reasons) == 1:
        assert list(directory.rglob(".*.mp4")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its killed parent")
def test_a_killed_worker_takes_ffmpeg_along_and_the_redrive_clears_its_draft(
    platform: Any, directory: Path, long_source: str
) -> None:
    video = media.probe(long_source)
    worker = platform.worker(env=IMPORTS)
    platform.relay()
    sent = media.transcode.delay(video, height=144)
    eventually(_encoders, 60, "ffmpeg runs")
    os.kill(worker.wait_for_children(1)[0], signal.SIGKILL)
    letter = eventually(lambda: DeadLetter.objects.filter(task_id=sent.id).first(), 90)
    assert letter is not None
    assert letter.reason == "worker_lost"
    eventually(lambda: not _encoders(), 20, "ffmpeg is gone")
    assert _renditions(directory) == []
    (draft,) = directory.rglob(".*.mp4")
    os.utime(draft, (0, 0))
    assert finished(services.redrive(letter.pk, actor="test"), 150).state == "SUCCESS"
    assert len(_renditions(directory)) == 1
    assert list(directory.rglob(".*.mp4")) == []


def _renditions(directory: Path) -> list[Path]:
    return [path for path in directory.glob("videos/*/*.mp4") if not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("gone.mp4", None, "is not there"), ("text.mp4", b"no video", "is no video that ffmpeg can read")],
)
def test_what_is_no_video_goes_to_the_inbox(
    platform: Any, directory: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (directory / "incoming").mkdir(parents=True)
        (directory / "incoming" / name).write_bytes(content)
    platform.worker(env=IMPORTS)
    platform.relay()
    media.pipeline(f"incoming/{name}").delay()
    letter = eventually(lambda: DeadLetter.objects.filter(task="tasks.media.probe").first(), 60)
    assert letter is not None
    assert letter.reason == "permanent_error"
    assert said in letter.error_message
    # The same message, mended underneath: the chain goes on to its end.
    (directory / "incoming").mkdir(parents=True, exist_ok=True)
    (directory / "incoming" / name).unlink(missing_ok=True)
    media.render_test_video(f"incoming/{name}", seconds=2)
    services.redrive(letter.pk, actor="test")
    eventually(lambda: list(directory.glob("videos/*/manifest.json")), 90, "the chain goes on after the redrive")
