"""``tasks.files``: whole or not at all, also when attempts overlap or are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.files import appearing
from tests.support.process import ROOT

DIES_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from tasks.files import appearing
with appearing(Path(sys.argv[1])) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_whole_in_a_new_directory(tmp_path: Path) -> None:
    path = tmp_path / "new" / "list.txt"
    with appearing(path) as draft:
        assert draft.suffix == ".txt"
        draft.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["list.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), appearing(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["list.txt"]


def test_overlapping_attempts_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with appearing(path) as first:
        os.utime(first, (0, 0))
        with appearing(path) as second:
            assert first.exists()
            second.write_text("second")
        first.write_text("first")
    assert path.read_text() == "first"


def test_the_draft_of_a_killed_attempt_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    killed = subprocess.run([sys.executable, "-c", DIES_HALF_WAY, str(path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (orphan,) = tmp_path.iterdir()
    with appearing(path) as draft:
        draft.write_text("whole")
    assert orphan.exists(), "so young that it may be about to be locked"
    os.utime(orphan, (0, 0))
    with appearing(path) as draft:
        draft.write_text("again")
    assert names(tmp_path) == ["list.txt"]
