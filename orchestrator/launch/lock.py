"""A lock that ends with its holder, however the holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path


class FileLock:
    """An exclusive lock on a file, held by the kernel for an open file description.

    It is free again once every process that holds :attr:`fd` is gone, so a SIGKILL
    leaves no stale lock. The file may carry a note about the holder for others to read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def acquire(self, *, timeout: float = 0.0) -> bool:
        """Take the lock, waiting at most this many seconds for its holder; False if it stays held.

        Raises:
            OSError: the file cannot be opened for writing.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return False
                time.sleep(0.05)
                continue
            if _same_file(fd, self.path):
                self.fd = fd
                return True
            # The former holder removed the file between our open and our lock.
            os.close(fd)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def note(self, text: str) -> None:
        """Say who holds the lock; readable by :meth:`read`."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def read(self) -> str:
        """Return the holder's note, '' if there is none."""
        try:
            return self.path.read_text()
        except OSError:
            return ""

    def release(self) -> None:
        """Free the lock and remove its file. Harmless if it is not held."""
        if self.fd < 0:
            return
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self.fd)
        self.fd = -1

    def drop(self) -> None:
        """Close our end only: the lock stays with the processes that inherited it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
