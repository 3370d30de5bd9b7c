"""The public test kit: what was published, how a task ends, whether it is idempotent.

For the tests of a project; nothing of the platform imports it. It runs the real policy
stack on real stores: no eager mode, no fakes. The pytest fixtures are in
:mod:`orchestrator.testing.plugin`.
"""

from __future__ import annotations

from orchestrator.testing.clock import advance
from orchestrator.testing.idempotence import check_idempotent
from orchestrator.testing.performing import perform
from orchestrator.testing.recording import Published, Sent, assert_published, published
from orchestrator.testing.stores import own_stores

__all__ = [
    "Published",
    "Sent",
    "advance",
    "assert_published",
    "check_idempotent",
    "own_stores",
    "perform",
    "published",
]
