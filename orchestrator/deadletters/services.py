"""The verbs on dead letters: all that a view, a command or Flower calls.

Permissions are checked by the caller; every verb writes its audit entry itself.
"""

from __future__ import annotations

from orchestrator.deadletters.bulk import Report, discard_where, redrive_where
from orchestrator.deadletters.discarding import discard
from orchestrator.deadletters.filters import Filter, groups
from orchestrator.deadletters.redriving import redrive, resume_interrupted
from orchestrator.deadletters.retention import buried_among, open_among, prune

__all__ = [
    "Filter",
    "Report",
    "buried_among",
    "discard",
    "discard_where",
    "groups",
    "open_among",
    "prune",
    "redrive",
    "redrive_where",
    "resume_interrupted",
]
