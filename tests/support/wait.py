"""Waiting for something to become true: the only place in the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


class NeverHappened(AssertionError):
    """What was waited for did not happen before the deadline."""


def eventually(
    look: Callable[[], Seen], timeout: float = 30.0, message: str | Callable[[], str] = "", *, most: float = 0.2
) -> Seen:
    """Return the first truthy value of ``look()``.

    Args:
        look: called again and again; an ``AssertionError`` counts as "not yet".
        timeout: seconds.
        message: what was expected, or a function that describes what is there instead.
        most: longest pause between two looks, in seconds.

    Raises:
        NeverHappened: the deadline passed; carries the last value or failed assertion.
    """
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        last: object
        try:
            seen = look()
            if seen:
                return seen
            last = seen
        except AssertionError as error:
            last = error
        if time.monotonic() >= deadline:
            said = message() if callable(message) else message
            raise NeverHappened(f"not within {timeout:g} s: {said or repr(look)}; last seen: {last!r}")
        time.sleep(pause)
        # Short pauses at first, since most waits are short; few look-ups later, since the cores are shared.
        pause = min(pause * 1.5, most)


def stays(look: Callable[[], object], seconds: float, message: str = "") -> None:
    """Assert that ``look()`` stays truthy for a while; for things that must not happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        assert seen, f"did not stay: {message or look!r}; seen: {seen!r}"
        time.sleep(0.02)


def pause(seconds: float) -> None:
    """Let time pass between two moves of a program that keeps time itself, never to await something."""
    time.sleep(seconds)
