"""Files under ``MEDIA_ROOT`` that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from orchestrator import PermanentError


def media_path(name: str) -> Path:
    """Return the path of a file or directory under ``MEDIA_ROOT``.

    Raises:
        PermanentError: the name leads out of ``MEDIA_ROOT``, or none is set.
    """
    if not settings.MEDIA_ROOT:
        raise PermanentError(f"No place for {name!r}: set MEDIA_ROOT to the directory where tasks keep their files.")
    root = Path(settings.MEDIA_ROOT).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise PermanentError(f"{name!r} leads out of MEDIA_ROOT; give a path below it, as in 'reports/march.pdf'.")
    return path


def media_name(path: Path) -> str:
    """Return a path as its name under ``MEDIA_ROOT``, which is what tasks hand to each other."""
    return path.relative_to(Path(settings.MEDIA_ROOT).resolve()).as_posix()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield the path of a draft that takes the place of ``path`` when the block ends well.

    Readers see the old file or the new one, never half of one, and two attempts of
    the same task cannot write into each other's draft.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: programs such as ffmpeg choose the format by it.
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(draft)
        with Path(draft).open("rb") as written:
            os.fsync(written.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
