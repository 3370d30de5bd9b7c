"""When a message was first published travels with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from orchestrator.contracts.message import Publication
from orchestrator.contracts.policy import Policy


class Telemetry(Policy):
    """Stamps the time of first publication, so that queue wait can be told.

    Republications keep the stamp. *Fails: open, it uses no store.*
    """

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Stamp the header once."""
        # So fine that it tells two copies of one id apart: what follows each of them is named by it.
        publication.header.setdefault("at", round(time.time(), 6))
        return proceed(publication)
