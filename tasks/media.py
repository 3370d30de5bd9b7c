"""Video: look at it, make two renditions and a thumbnail side by side, then list them in a manifest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from celery import chain, group

from orchestrator import PermanentError, progress, task
from tasks import ffmpeg
from tasks.files import appearing, media_name, media_path

HEIGHTS = (360, 240)
#: What every browser plays.
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac")


def pipeline(source: str, directory: str = "videos") -> Any:
    """Return the whole work as one signature: ``pipeline("incoming/clip.mp4").delay()``.

    Its result is the manifest. Whatever part of it fails lies in the inbox, and its
    redrive goes on from there.
    """
    renditions = [transcode.s(height=height) for height in HEIGHTS]
    return chain(probe.si(source, directory), group(*renditions, thumbnail.s()), write_manifest.s())


@task
def probe(source: str, directory: str = "videos") -> dict[str, Any]:
    """Say what a video is, and where what is made of it belongs.

    The place carries a digest of the content, so the same video run again finds its
    finished parts, and another one under the same name does not.

    Raises:
        PermanentError: there is no such file, or it is no video.
    """
    path = media_path(source)
    if not path.is_file():
        raise PermanentError(f"The video {source!r} is not there.")
    description = ffmpeg.describe(path)
    seconds, size = ffmpeg.duration(description), ffmpeg.frame_size(description)
    if seconds is None or size is None:
        raise PermanentError(f"{source!r} is no video that ffmpeg can read.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "source": source,
        "seconds": seconds,
        "width": size[0],
        "height": size[1],
        "target": f"{directory}/{path.stem}-{digest[:12]}",
    }


@task
def transcode(video: dict[str, Any], height: int) -> dict[str, Any]:
    """Make one rendition as H.264 in MP4, with progress; a finished one is kept.

    Args:
        video: What :func:`probe` returned.
        height: Pixels; the width follows.
    """
    path = media_path(f"{video['target']}/{height}p.mp4")
    seconds = video["seconds"]
    if not path.exists():
        # Even sizes, which the colour format asks for; one thread, as the worker runs several tasks.
        picture = ["-vf", f"scale=-2:{height}", *H264, "-threads", "1"]
        with appearing(path) as draft:
            ffmpeg.run(
                ["-i", media_path(video["source"]), *picture, "-movflags", "+faststart", draft],
                on_time=lambda done: progress(min(done, seconds), seconds, f"{height}p"),
            )
    progress(seconds, seconds, f"{height}p")
    return {"kind": "rendition", "height": height, **_file(path), "video": video}


@task
def thumbnail(video: dict[str, Any]) -> dict[str, Any]:
    """Take a picture from the middle; a finished one is kept."""
    path = media_path(f"{video['target']}/thumbnail.jpg")
    if not path.exists():
        with appearing(path) as draft:
            middle = f"{video['seconds'] / 2:.2f}"
            ffmpeg.run(
                ["-ss", middle, "-i", media_path(video["source"]), "-frames:v", "1", "-update", "1", "-q:v", "3", draft]
            )
    return {"kind": "thumbnail", **_file(path), "video": video}


@task
def write_manifest(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """List the finished parts; players look for this file, so it comes last."""
    video = parts[0]["video"]
    files = [{key: value for key, value in part.items() if key != "video"} for part in parts]
    manifest = {"source": video["source"], "seconds": video["seconds"], "files": files}
    path = media_path(f"{video['target']}/manifest.json")
    with appearing(path) as draft:
        draft.write_text(json.dumps(manifest, indent=1))
    return {"manifest": media_name(path), **manifest}


@task
def render_test_video(target: str, seconds: int = 10) -> str:
    """Make a video with a moving test picture and a tone, to try the rest with."""
    path = media_path(target)
    if not path.exists():
        with appearing(path) as draft:
            picture = f"testsrc2=size=640x480:rate=25:duration={int(seconds)}"
            tone = f"sine=frequency=440:duration={int(seconds)}"
            ffmpeg.run(
                ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone, *H264, "-preset", "ultrafast", draft],
                on_time=lambda done: progress(min(done, seconds), seconds, "rendering"),
            )
    return target


def _file(path: Any) -> dict[str, Any]:
    return {"path": media_name(path), "bytes": path.stat().st_size}
