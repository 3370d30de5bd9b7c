"""The fencing number of what the running task holds.

A lease can be lost without its owner noticing: its process was stopped, or its machine
lost the network. The next owner then has a higher number. A far side that refuses
numbers lower than the highest it has seen is never written to by the old owner again
(idea: Martin Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_number: ContextVar[int | None] = ContextVar("orchestrator_fencing", default=None)


def fencing() -> int | None:
    """Return the fencing number under which the running task holds its key.

    It grows with every new owner of any key and fits into 64 bits. None outside of a task,
    and in one that holds nothing. Send it along with an outside call, or make an update
    conditional: ``filter(pk=pk, fence__lte=number).update(fence=number, ...)``.
    """
    return _number.get()


@contextmanager
def fenced(number: int) -> Iterator[None]:
    """Let :func:`fencing` return ``number`` within the block."""
    token = _number.set(number)
    try:
        yield
    finally:
        _number.reset(token)
