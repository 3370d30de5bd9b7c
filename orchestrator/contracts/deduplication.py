"""Calls that mean the same run are one message: how it is declared, and what a lock says."""

from __future__ import annotations

import enum
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from orchestrator.contracts import keys
from orchestrator.contracts.errors import InvalidOption, UnknownOption

#: Keyword of ``apply_async``: another rule for one call, or False for none.
OPTION = "deduplication"
#: Field of our header.
FIELD = "dedup"
#: Seconds that a lock lasts if nobody gives it back and nobody said otherwise.
DAY = 24 * 3600.0


class Mode(enum.StrEnum):
    """What counts as a duplicate. The laws are in :class:`Deduplicate`."""

    UNTIL_STARTED = "until_started"
    UNTIL_FINISHED = "until_finished"
    WINDOW = "window"
    DEBOUNCE = "debounce"
    THROTTLE = "throttle"
    LATEST = "latest"


#: Modes in which the run that waits takes the newest arguments.
NEWEST = frozenset({Mode.DEBOUNCE, Mode.THROTTLE, Mode.LATEST})
#: Modes whose lock lasts while the task runs, its retries included.
RUNNING = frozenset({Mode.UNTIL_FINISHED, Mode.LATEST})
#: Modes that need a span.
SPANNED = frozenset({Mode.WINDOW, Mode.DEBOUNCE, Mode.THROTTLE})


@dataclass(frozen=True, slots=True)
class Deduplicate:
    """Publish calls that mean the same run once; later callers get the id of the first.

    The law of each mode, for the calls of one task under one key:

    ``"until_started"``
        At most one message waits to start. (Sidekiq Enterprise: ``unique_until: :start``.)
    ``"until_finished"``
        At most one run is waiting or running; retries and deferrals belong to it. It ends with success, final
        failure, revocation or expiry. (BullMQ's simple mode; Sidekiq Enterprise: ``unique_until: :success``.)
    ``"window"``
        Of all calls within ``window`` of one that was published, none is, whatever became of that one. (The
        deduplication interval of Amazon SQS FIFO queues.)
    ``"debounce"``
        One run, at least ``window`` after the last call, with that call's arguments; with ``max_wait``, not later
        than that after the first call. (lodash ``debounce``, trailing edge, ``maxWait``.)
    ``"throttle"``
        Two runs start at least ``window`` apart. The first starts at once; calls until the next one's start are
        that run, with the arguments of the last of them, so the last call always takes effect. (lodash
        ``throttle``, leading and trailing edge.)
    ``"latest"``
        At most one is running and one waiting, and the one that waits has the arguments of the last call. (BullMQ:
        ``keepLastIfActive``; GitLab's ``reschedule_once``.)

    Only a plain call can be a duplicate. Retries, deferrals, redrives, members of groups and chords, heads of chains,
    calls with callbacks, and callbacks themselves are always published.

    Args:
        mode: one of the names above.
        key: template over the task's arguments, as in ``"report-{account_id}"``, or a callable that gets them and
            returns the key; left out, calls with equal arguments are the same.
        window: seconds or timedelta; for ``window``, ``debounce`` and ``throttle``.
        ttl: seconds or timedelta after which a lock is given up that nobody gave back, because its message was lost;
            counted from when its message is due.
        max_wait: seconds or timedelta; for ``debounce``.

    Raises:
        UnknownOption: there is no such mode.
        InvalidOption: a value cannot work.
    """

    mode: str
    key: keys.Key | None = None
    window: float | timedelta | None = None
    ttl: float | timedelta = DAY
    max_wait: float | timedelta | None = None

    def __post_init__(self) -> None:
        modes = [str(mode) for mode in Mode]
        if self.mode not in modes:
            raise UnknownOption.among(str(self.mode), modes, "Deduplicate(mode)")
        object.__setattr__(self, "mode", Mode(self.mode))
        for name in ("window", "ttl", "max_wait"):
            self._check_span(name)
        if self.key is not None and not callable(self.key):
            keys.check_template(self.key, f"Deduplicate(key={self.key!r})", '"report-{account_id}"')

    def _check_span(self, name: str) -> None:
        given = getattr(self, name)
        takers = {"window": SPANNED, "max_wait": {Mode.DEBOUNCE}, "ttl": set(Mode) - {Mode.WINDOW}}[name]
        if given is None or (name == "ttl" and given == DAY):
            if name == "window" and self.mode in SPANNED:
                raise InvalidOption(f"Deduplicate({self.mode!s}) needs window=, in seconds or as a timedelta.")
            return
        if self.mode not in takers:
            raise InvalidOption(
                f"Deduplicate({self.mode!s}, {name}={given!r}): only {', '.join(sorted(takers))} take(s) {name}=."
            )
        seconds = given.total_seconds() if isinstance(given, timedelta) else given
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.001 <= seconds < float("inf"):
            raise InvalidOption(f"Deduplicate({name}={given!r}): give seconds above 0, or a timedelta.")
        object.__setattr__(self, name, float(seconds))

    def check(self, task: str, parameters: Iterable[inspect.Parameter], sensitive: Iterable[str] = ()) -> None:
        """Refuse a template that a task's signature cannot fill, or that would show what is secret.

        Raises:
            UnknownOption: it names an argument that the task does not have.
            InvalidOption: it names a sensitive one.
        """
        if isinstance(self.key, str):
            names = keys.names_in(self.key, f"Deduplicate(key={self.key!r})")
            keys.check_names(names, self._kind, task, parameters, sensitive)

    @property
    def _kind(self) -> str:
        return f"the deduplication key {self.key!r}"

    def claim(self, task: str, arguments: Mapping[str, Any], named: Mapping[str, Any]) -> Claim:
        """Return what one call claims.

        Args:
            arguments: by parameter, defaults filled in.
            named: the same, a ``**`` parameter's members among them.

        Raises:
            InvalidOption: an argument that the key is made of cannot name anything.
        """
        if self.key is None:
            # Short enough to be read, long enough to be one of its kind.
            key = f"arguments {keys.fingerprint(arguments)[:32]}"
        else:
            made = self.key(**named) if callable(self.key) else keys.filled(self.key, self._kind, task, named)
            key = keys.checked(made, "a deduplication key", task, "or publish with deduplication=False")
        spans = (float(span) if span is not None else 0.0 for span in (self.window, self.ttl, self.max_wait))  # type: ignore[arg-type]  # timedeltas became seconds above
        return Claim(task, key, Mode(self.mode), *spans)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a message claims: to be the one run of its key. Travels in our header, so that a worker needs no more."""

    task: str
    key: str
    mode: Mode
    #: Seconds; 0 where there is none.
    window: float = 0.0
    ttl: float = DAY
    max_wait: float = 0.0

    @property
    def name(self) -> str:
        """Names the lock. Locks of different modes or tasks never meet."""
        return f"{self.mode}:{self.task}:{self.key}"

    @property
    def digest(self) -> str:
        """The name at a fixed length, for a column."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def newest(self) -> bool:
        """Whether a call replaces the arguments of the run that waits."""
        return self.mode in NEWEST

    def to_header(self) -> dict[str, Any]:
        """Return the field of our header."""
        return {"key": self.key, "mode": str(self.mode), "spans": [self.window, self.ttl, self.max_wait]}

    @classmethod
    def of(cls, task: Any, header: Mapping[str, Any]) -> Claim | None:
        """Return what a message claims.

        Args:
            task: the task, or its name.

        Returns:
            None if it claims nothing, or nothing that this release knows.
        """
        field = header.get(FIELD)
        if not isinstance(field, Mapping):
            return None
        try:
            spans = [float(span) for span in field["spans"]]
            return cls(str(getattr(task, "name", task)), str(field["key"]), Mode(field["mode"]), *spans)
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Taken:
    """The lock is the caller's, whose message is to start ``delay`` seconds from now."""

    delay: float


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A message with this id is the run already."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Unsure:
    """Somebody is just publishing under this id; whether it succeeds is not known yet."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Start:
    """A message may start, with the arguments of a later call where there was one."""

    newer: tuple[list[Any], dict[str, Any]] | None
    #: Whether its lock lasts while it runs.
    held: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """A message may not start for this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock, as people see it. ``state`` is ``publishing``, ``waiting`` or ``running``."""

    name: str
    task_id: str
    state: str
    since: float
    seconds: float
    duplicates: int


class DeduplicationLocks(Protocol):
    """Who is the one run of a key. The owner of a lock is a task id."""

    def encode(self, args: Any, kwargs: Any) -> str:
        """Return arguments as they are kept."""

    def take(self, claim: Claim, task_id: str, arguments: str, called: float | None) -> Taken | Duplicate | Unsure:
        """Take the lock for a moment, or tell whose it is and, where the mode says so, leave newer arguments there.

        Args:
            called: time of the call in seconds since the epoch, where it lies in the past.
        """

    def confirm(self, claim: Claim, task_id: str, seconds: float) -> None:
        """The message is sent: let its lock last."""

    def begin(self, claim: Claim, task_id: str, attempt_id: str) -> Start | Wait:
        """An attempt is about to run."""

    def keep(self, claim: Claim, task_id: str) -> AbstractContextManager[None]:
        """Let the lock of a running task last while a block runs."""

    def pause(self, claim: Claim, task_id: str) -> None:
        """An attempt is over and the run may not be: let its lock last until the next one."""

    def end(
        self, claim: Claim, task_id: str, attempt_id: str = "", *, again: float = 0.0
    ) -> tuple[list[Any], dict[str, Any]] | None:
        """The run is over: give everything back; only if ``attempt_id`` began it, where that is given.

        Args:
            again: seconds for which the same can be asked again with the same answer.

        Returns:
            the arguments of a later call that it ran with, or would have.
        """

    def end_soon(self, claim: Claim, task_id: str, attempt_id: str) -> None:
        """Do that with the next call; what it would return is nobody's."""

    def owner(self, claim: Claim) -> str | None:
        """Return the task id that holds a lock."""

    def free(self, name: str) -> bool:
        """Take a lock from whoever holds it: a person's decision. False if it was free."""

    def list(self, offset: int, limit: int) -> list[Lock]:
        """Return locks, those first that end last."""
