"""A circuit breaker: how it is declared, and what is known of it."""

from __future__ import annotations

import enum
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from orchestrator.contracts.errors import InvalidOption

#: Characters of a breaker's name.
LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Breaker:
    """Stop calling a far side that fails, and try with one task whether it is well again.

    The law (Michael Nygard, "Release It!", 2007; counting as in resilience4j): *closed*, every attempt runs and its
    end is counted. When at least ``minimum`` attempts ended within ``window`` and the share of failures among them
    is ``error_rate`` or more, it *opens*: for ``cooldown`` nothing runs, messages are deferred without a retry.
    Then it is *half-open*: one attempt runs, a probe. Its success closes the breaker, its failure opens it again; a
    probe that dies makes room for another.

    Tasks that name the same breaker share it, on all workers; declare it once and import it. One name with two sets
    of numbers is refused at import.

    Args:
        name: of the far side, as in ``"stripe"``.
        error_rate: above 0, at most 1.
        minimum: attempts that must have ended within ``window``.
        window: seconds or timedelta over which ends are counted, in tenths of it.
        cooldown: seconds or timedelta for which it is open.
        on: exceptions that count as failures, also when a retry answers them. Others count as good: the far side
            answered. ``PermanentError`` never counts as a failure; a killed process and a hard time limit always do.

    Raises:
        InvalidOption: a value cannot work.
    """

    name: str
    error_rate: float = 0.5
    minimum: int = 10
    window: float | timedelta = 60.0
    cooldown: float | timedelta = 30.0
    on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise InvalidOption(f"Breaker({name!r}): give a name of 1 to {LONGEST_NAME} printable characters.")
        rate, minimum = self.error_rate, self.minimum
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise InvalidOption(f"Breaker({name!r}, error_rate={rate!r}): give a share above 0 and at most 1.")
        if isinstance(minimum, bool) or not isinstance(minimum, int) or minimum < 1:
            raise InvalidOption(f"Breaker({name!r}, minimum={minimum!r}): give a whole number of attempts, 1 or more.")
        for option in ("window", "cooldown"):
            span = getattr(self, option)
            seconds = span.total_seconds() if isinstance(span, timedelta) else span
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.01 <= seconds < float("inf"):
                raise InvalidOption(f"Breaker({name!r}, {option}={span!r}): give seconds above 0, or a timedelta.")
            object.__setattr__(self, option, float(seconds))
        on = (self.on,) if isinstance(self.on, type) else tuple(self.on)
        if not on or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in on):
            raise InvalidOption(
                f"Breaker({name!r}, on={self.on!r}): name exception classes, as in on=(ConnectionError,)."
            )
        object.__setattr__(self, "on", on)

    @property
    def spans(self) -> tuple[float, float]:
        """``window`` and ``cooldown`` in seconds."""
        return float(self.window), float(self.cooldown)  # type: ignore[arg-type]  # timedeltas became seconds above

    @property
    def numbers(self) -> tuple[float, int, float, float]:
        """What tasks that share it must agree on: ``error_rate``, ``minimum``, and the spans in seconds."""
        return float(self.error_rate), self.minimum, *self.spans


#: Name of a breaker -> task that declared it first, and the breaker.
_declared: dict[str, tuple[str, Breaker]] = {}


def check_breaker(task: str, breaker: Breaker) -> None:
    """Refuse a breaker whose name another task declares with other numbers: they share its state.

    Which exceptions count (``on``) is each task's own.

    Raises:
        InvalidOption: names both tasks and their numbers.
    """
    other, known = _declared.setdefault(breaker.name, (task, breaker))
    if other == task:
        _declared[breaker.name] = (task, breaker)
    elif known.numbers != breaker.numbers:
        raise InvalidOption(
            f"Task {task!r} declares {breaker!r}, task {other!r} declares {known!r}: breakers with one name are "
            "shared, so declare one and import it, or give them different names."
        )


class End(enum.StrEnum):
    """How an attempt ended, for a breaker."""

    GOOD = "good"
    FAILED = "failed"
    #: It did not get as far as the far side, or said nothing about it.
    NEITHER = "neither"


class State(enum.StrEnum):
    """Whether attempts run."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Forced(enum.StrEnum):
    """What a person decided, until it is reset."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Entry:
    """Whether an attempt may run: at once, as a probe, or not for ``wait`` seconds."""

    runs: bool
    probe: bool = False
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """One breaker, as people see it. Times are seconds since the epoch; 0 where there is none."""

    name: str
    state: State
    forced: Forced | None
    #: Ends within the window; of an open one, those that opened it.
    good: int
    failed: int
    since: float
    #: Seconds until a probe may run.
    wait: float
    #: Share, attempts and seconds, as last declared.
    error_rate: float
    minimum: int
    window: float
    cooldown: float


class Breakers(Protocol):
    """The state of breakers, once for all processes."""

    def enter(self, breaker: Breaker, attempt_id: str, seconds: float) -> Entry:
        """Ask whether an attempt may run; a probe's lease lasts ``seconds`` unless it is kept."""

    def record(self, breaker: Breaker, attempt_id: str, end: End) -> State | None:
        """Count an attempt's end, once; the new state if it changed by that."""

    def keep(self, breaker: Breaker, attempt_id: str, seconds: float) -> AbstractContextManager[None]:
        """Renew a probe's lease while a block runs."""
