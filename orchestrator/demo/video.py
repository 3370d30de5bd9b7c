"""Part three: a real video, transcoded with progress."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from celery import chain

from orchestrator.demo import tasks
from orchestrator.demo.events import Watcher
from orchestrator.demo.part import Part

SECONDS = 20
RENDITIONS = 2
#: Different percentages that must be seen before one believes in progress.
PERCENTAGES = 3


class Video(Part):
    """A chain with a chord in it: film, probe, two renditions and a thumbnail, manifest."""

    key = "video"
    title = "Video in two renditions"
    goal = 100

    def __init__(self, media: Path, watcher: Watcher) -> None:
        super().__init__()
        self._media = media
        self._watcher = watcher
        self._task_id = ""
        self._manifest: dict[str, Any] = {}

    def start(self) -> None:
        """Publish the pipeline, behind a task that films the picture to transcode."""
        film = tasks.named("tasks.media.render_test_video")
        source = "incoming/demo.mp4"
        pipeline = importlib.import_module("tasks.media").pipeline(source)
        self._task_id = chain(film.si(source, seconds=SECONDS), pipeline).delay().id

    def look(self) -> None:
        """Follow the progress events, then check the files that the manifest names."""
        progress = self._watcher.progress("tasks.media.transcode")
        latest = [reports[-1] for reports in progress.values()]
        # The last step is the manifest, so the renditions alone are not all of it.
        self.done = min(99, sum(latest) // RENDITIONS)
        if latest:
            self.note = "transcoding " + ", ".join(f"{percent}%" for percent in latest)
        self.problem = tasks.failure(self._task_id)
        if tasks.succeeded(self._task_id):
            self._check()

    def counts(self) -> dict[str, Any]:
        """Return what came out and how finely its progress was seen."""
        return {
            "seconds_of_video": self._manifest.get("seconds", 0),
            "renditions": self._files("rendition"),
            "thumbnails": self._files("thumbnail"),
            "percentages_seen": self._percentages(),
        }

    def _check(self) -> None:
        found = list(self._media.glob("videos/*/manifest.json"))
        if len(found) != 1:
            self.problem = f"{len(found)} manifests instead of one"
            return
        self._manifest = json.loads(found[0].read_text())
        for file in self._manifest["files"]:
            size = (self._media / file["path"]).stat().st_size
            if not size or size != file["bytes"]:
                self.problem = f"{file['path']} has {size} bytes, the manifest says {file['bytes']}"
        if self._files("rendition") == RENDITIONS and self._files("thumbnail") == 1:
            self.note = f"{RENDITIONS} renditions and a thumbnail, {self._percentages()} percentages seen"
            if self._percentages() >= PERCENTAGES:
                self.done = self.goal

    def _files(self, kind: str) -> int:
        return sum(1 for file in self._manifest.get("files", ()) if file["kind"] == kind)

    def _percentages(self) -> int:
        return len(
            {percent for reports in self._watcher.progress("tasks.media.transcode").values() for percent in reports}
        )
