"""What compose.yaml says, and its commands run without containers."""

from __future__ import annotations

import re
import shlex
import socket
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "compose.yaml"
#: Services that run our image; the others run somebody else's.
OURS = ("web", "worker", "scheduler", "relay", "flower", "migrate")


def load() -> dict[str, Any]:
    """Return the file with its YAML anchors and merges resolved, variables left as they are."""
    return dict(yaml.safe_load(FILE.read_text()))


def command(service: dict[str, Any], **variables: str) -> list[str]:
    """Return a service's command as an argument list, as Compose fills it in and splits it."""
    filled = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: variables[found[1]], service["command"])
    return shlex.split(filled)


def health_command(service: dict[str, Any]) -> list[str]:
    """Return a service's health check as an argument list."""
    kind, *rest = service["healthcheck"]["test"]
    # Two dollar signs are how Compose writes one.
    rest = [part.replace("$$", "$") for part in rest]
    return ["/bin/sh", "-c", rest[0]] if kind == "CMD-SHELL" else rest


def on_this_machine(argv: list[str], ports: dict[int, int]) -> list[str]:
    """Return a command with loopback addresses and free ports instead of the container's."""
    moved = []
    for part in argv:
        for inside, outside in ports.items():
            part = part.replace(f":{inside}", f":{outside}").replace(f"{inside}", f"{outside}")
        moved.append(part.replace("0.0.0.0", "127.0.0.1"))
    return moved


def hostname() -> str:
    """Return what ``hostname`` prints and ``%h`` stands for."""
    return socket.gethostname()
