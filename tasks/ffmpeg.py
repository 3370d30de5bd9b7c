"""One run of ffmpeg that reports progress and never outlives its task."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator import PermanentError

#: Becomes ffmpeg after asking Linux to kill it with its parent, which a hard time
#: limit or the out-of-memory killer may end without a chance to clean up.
_LEASH = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class FfmpegFailed(Exception):
    """ffmpeg ended with an error; carries its last words."""


def program() -> str:
    """Return the path of ffmpeg.

    Raises:
        PermanentError: the extra that brings it is not installed, or has none for this machine.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        raise PermanentError(
            "Video tasks need imageio-ffmpeg: install the extra 'video', "
            "as in pip install 'django-orchestrator[video]'."
        ) from None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise PermanentError(
            "imageio-ffmpeg (extra 'video') has no ffmpeg for this machine: install ffmpeg "
            f"and set IMAGEIO_FFMPEG_EXE to its path. ({error})"
        ) from error


def run(arguments: Sequence[str | Path], on_time: Callable[[float], None] | None = None) -> None:
    """Run ffmpeg to its end.

    Args:
        arguments: Inputs, options and output; an existing output is overwritten.
        on_time: Called a few times a second with the seconds of output written so far; they only grow.

    Raises:
        FfmpegFailed: it ended with an error.
        PermanentError: there is no ffmpeg.
    """
    command = [program(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-stats_period", "0.2", "-progress", "pipe:1", *map(str, arguments)]
    furthest = 0.0
    # Errors go to a file: a full pipe that nobody reads would stop ffmpeg.
    with tempfile.TemporaryFile() as errors, _start(command, errors.fileno()) as process:
        try:
            assert process.stdout is not None  # noqa: S101
            for line in process.stdout:
                key, _, value = line.decode("ascii", "replace").strip().partition("=")
                # ffmpeg names the furthest of sound and picture while both flow, then the
                # one that is left: without the comparison, progress would go backwards.
                if on_time is not None and key == "out_time_us" and value.isdigit() and int(value) / 1e6 > furthest:
                    furthest = int(value) / 1e6
                    on_time(furthest)
            code = process.wait()
        finally:
            # Also on a soft time limit or a worker's stop, both of which arrive as
            # exceptions; leaving the block would otherwise wait for ffmpeg's end.
            process.kill()
        errors.seek(0)
        words = errors.read().decode("utf-8", "replace").strip().splitlines()
    if code:
        raise FfmpegFailed(f"ffmpeg ended with {code}: {' / '.join(words[-3:]) or 'it said nothing'}")


def describe(source: Path) -> str:
    """Return what ffmpeg says about a file: container, duration and streams."""
    asked = subprocess.run(
        [program(), "-nostdin", "-hide_banner", "-i", source], capture_output=True, timeout=60, check=False
    )
    return asked.stderr.decode("utf-8", "replace")


def duration(description: str) -> float | None:
    """Return the seconds named in a description, None if it names none."""
    found = re.search(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", description)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def frame_size(description: str) -> tuple[int, int] | None:
    """Return (width, height) in pixels of the first video stream, None if there is none."""
    found = re.search(r"Stream #.*: Video: .*?\b(\d{2,5})x(\d{2,5})\b", description)
    return (int(found[1]), int(found[2])) if found else None


def _start(command: Sequence[str], errors: int) -> subprocess.Popen[bytes]:
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]
    # A session of its own: Ctrl-C in a terminal asks the worker to finish, not ffmpeg to stop.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
    )
