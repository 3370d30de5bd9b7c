"""Where the platform keeps its files on one machine."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from orchestrator.contracts.errors import ConfigurationError

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
    """Return a random secret that is made at first use and kept in the data directory.

    Raises:
        ConfigurationError: the directory cannot be read or written.
    """
    try:
        return _stored_secret(data_dir / name)
    except OSError as error:
        raise unusable(data_dir, error) from error


def unusable(data_dir: Path, error: OSError) -> ConfigurationError:
    """Return the error that says why a data directory cannot be used, and the way out."""
    return ConfigurationError(
        f"The data directory {data_dir} cannot be used: {error.strerror or error}. "
        "Set ORCHESTRATOR_DATA_DIR to a directory that this user may write to."
    )


def _stored_secret(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    write_private(draft, secrets.token_urlsafe(48))
    try:
        # A link fails if another process was first, so all processes agree on one secret.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()
