"""Where the platform keeps its files on one machine."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

#: Written by ``manage.py up`` while its embedded broker runs, readable by the owner only.
BROKER_FILE = "broker.json"


def embedded_broker_url(data_dir: Path) -> str:
    """Return the URL of the embedded broker that runs in this data directory, or '' if none does."""
    try:
        broker = json.loads((data_dir / BROKER_FILE).read_text())
        os.kill(broker["pid"], 0)
        return str(broker["url"])
    except (OSError, ValueError, KeyError, TypeError):
        # Also a file that a killed process left behind: its port may be somebody else's by now.
        return ""


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def stored_secret(data_dir: Path, name: str) -> str:
    """Return a random secret that is made at first use and kept in the data directory."""
    path = data_dir / name
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    draft = path.with_name(f"{name}.{os.getpid()}")
    write_private(draft, secrets.token_urlsafe(48))
    try:
        # A link fails if another process was first, so all processes agree on one secret.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()
