"""Files under ``MEDIA_ROOT`` that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from orchestrator import PermanentError

#: Seconds between making a draft and locking it, at the very most.
YOUNG = 5.0


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

    Readers see the old file or the new one, never half of one. Two attempts of the
    same task cannot write into each other's draft, and what a killed attempt left
    is removed by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(path)
    # The suffix stays: programs such as ffmpeg choose the format by it.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    draft = Path(name)
    try:
        # Held while this process lives: it tells a draft in the making from an orphan.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield draft
        os.fsync(descriptor)
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
        os.close(descriptor)


def _remove_orphans(path: Path) -> None:
    """Remove drafts of a file whose writers are dead."""
    for draft in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        with contextlib.suppress(OSError), draft.open("rb") as file:
            # Refused while its writer lives; a draft so young that its lock is still to come is left alone.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - draft.stat().st_mtime > YOUNG:
                draft.unlink()
