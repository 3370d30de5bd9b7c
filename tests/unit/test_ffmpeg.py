"""``tasks.ffmpeg``: what is read from ffmpeg's words, and how its run ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator import PermanentError
from tasks import ffmpeg

FILM = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=30", "-f", "lavfi", "-i", "sine=duration=30"]


def test_time_only_grows(tmp_path: Path) -> None:
    seen: list[float] = []
    ffmpeg.run([*FILM, "-c:v", "libx264", "-threads", "1", "-c:a", "aac", tmp_path / "film.mp4"], on_time=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == pytest.approx(30, abs=0.2)
    said = ffmpeg.describe(tmp_path / "film.mp4")
    assert ffmpeg.duration(said) == pytest.approx(30, abs=0.2)
    assert ffmpeg.frame_size(said) == (160, 120)


def test_its_last_words_are_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ffmpeg.FfmpegFailed, match=r"No such file or directory"):
        ffmpeg.run(["-i", tmp_path / "gone.mp4", tmp_path / "out.mp4"])


def test_an_error_in_the_task_ends_it_at_once(tmp_path: Path) -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    endless = ["-re", "-f", "lavfi", "-i", "testsrc2=size=160x120", tmp_path / "out.mp4"]
    with pytest.raises(KeyboardInterrupt):
        ffmpeg.run(endless, on_time=stop)


@pytest.mark.parametrize(
    ("said", "seconds", "size"),
    [
        ("Duration: 01:02:03.50, start", 3723.5, None),
        ("Duration: N/A\n Stream #0:0: Audio: aac", None, None),
        (
            "Stream #0:1[0x2](und): Video: h264 (avc1 / 0x31637661), yuv420p, 1920x1080 [SAR 1:1], 25 fps",
            None,
            (1920, 1080),
        ),
    ],
)
def test_durations_and_sizes_are_read(said: str, seconds: float | None, size: tuple[int, int] | None) -> None:
    assert ffmpeg.duration(said) == seconds
    assert ffmpeg.frame_size(said) == size


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(PermanentError, match=r"extra 'video', as in pip install 'django-orchestrator\[video\]'"):
        ffmpeg.program()
