"""Messages: what is published, what a worker receives, what a letter keeps."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.contracts.outcome import Reason, Verdict

#: Name of the one header that carries everything of ours, versioned, so that
#: task signatures stay clean.
HEADER = "orchestrator"
HEADER_VERSION = 1

#: Field of our header: names what a delivery leads to (its retry, its deferral, what follows it), so that the same
#: message, delivered again, does not publish that a second time.
ONCE = "once"
#: Field of our header: weight and tenant of a message, ``"1 acme"``, percent-encoded.
FAIRNESS = "fairness"

#: Fields of our header that a redriven message keeps.
KEPT_BY_REDRIVE = ("idempotency_key", FAIRNESS)

#: Property of a delivered message: the tag that it was published with, the same at each delivery.
PUBLISHED_AS = "published_as"
#: Format version of a letter on its way to the database.
LETTER_VERSION = 1


@dataclass(slots=True)
class Publication:
    """One act of sending a task message.

    ``options`` are ``Celery.send_task``'s keyword arguments. A policy changes a
    publication by setting options; it never touches ``args`` and ``kwargs``.
    """

    name: str
    task_id: str
    args: tuple[Any, ...] | list[Any]
    kwargs: Mapping[str, Any]
    options: dict[str, Any]
    #: The registered task, or None for a name that this process does not know.
    task: Any
    #: True for a retry, a deferral or a successor under the same id.
    republication: bool
    #: Content of our header.
    header: dict[str, Any]
    #: The caller's word on the outbox: None leaves it to the transaction, False sends at once, True or the alias
    #: of a database keeps the message there first.
    outbox: bool | str | None = None
    #: Messages of one key leave the outbox in the order in which they were published; empty for none.
    ordering_key: str = ""
    #: Takes the publication, and what would send it, where many travel together; None: it is sent.
    gather: Callable[[Publication, Callable[[Publication], Any]], Any] | None = None
    #: Whether a policy has to hear at once that it was sent, so that it cannot wait for company.
    alone: bool = False


@dataclass(frozen=True, slots=True)
class WireMessage:
    """A task message exactly as it lay on the broker: replayable byte for byte."""

    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; text bodies stay readable."""
        try:
            body, form = self.body.decode("utf-8"), "text"
        except UnicodeDecodeError:
            body, form = base64.b64encode(self.body).decode("ascii"), "base64"
        return {
            "body": body,
            "body_form": form,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "headers": dict(self.headers),
            "properties": dict(self.properties),
            "queue": self.queue,
            "exchange": self.exchange,
            "routing_key": self.routing_key,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WireMessage:
        """Rebuild a message from :meth:`to_json`."""
        body = data["body"]
        raw = base64.b64decode(body) if data["body_form"] == "base64" else body.encode("utf-8")
        return cls(
            body=raw,
            content_type=data["content_type"],
            content_encoding=data["content_encoding"],
            headers=data["headers"],
            properties=data["properties"],
            queue=data.get("queue", ""),
            exchange=data.get("exchange", ""),
            routing_key=data.get("routing_key", ""),
        )


@dataclass(frozen=True, slots=True)
class Parcel:
    """A task message that is complete, but not sent yet.

    ``event`` is the body of the ``task-sent`` event that goes with it, if one is wanted.
    """

    task: str
    task_id: str
    message: WireMessage
    event: Mapping[str, Any] | None = None
    ordering_key: str = ""
    #: Names the publish of it that got no answer, where there was one; for the transport to settle.
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that will not run again by itself, with everything a person needs.

    ``message`` is the only field that holds arguments; every other field is
    already redacted. Times are seconds since the epoch.
    """

    attempt_id: str
    verdict: Verdict
    reason: Reason
    task: str
    task_id: str
    message: WireMessage
    queue: str = ""
    worker: str = ""
    args_repr: str = ""
    kwargs_repr: str = ""
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    retries: int = 0
    root_id: str = ""
    parent_id: str = ""
    group_id: str = ""
    #: Id of the dead letter's task that this message was redriven from.
    redrive_of: str = ""
    #: One entry an attempt before this one: ``{"n", "at", "worker", "error"}``.
    history: list[dict[str, Any]] = field(default_factory=list)
    published_at: float | None = None
    died_at: float = 0.0

    def dumps(self) -> bytes:
        """Serialise for the letters stream. What JSON cannot hold becomes its ``repr``."""
        data = asdict(self)
        data["message"] = self.message.to_json()
        data["v"] = LETTER_VERSION
        return json.dumps(data, default=repr, separators=(",", ":")).encode("utf-8")

    @classmethod
    def loads(cls, raw: bytes) -> Letter:
        """Rebuild a letter.

        Raises:
            ValueError: the bytes are no letter of a version that this release knows.
        """
        try:
            data = json.loads(raw)
            version = data.pop("v")
            if version > LETTER_VERSION:
                raise ValueError(f"Letter version {version} is newer than this release knows ({LETTER_VERSION}).")
            data["message"] = WireMessage.from_json(data["message"])
            data["verdict"] = Verdict(data["verdict"])
            data["reason"] = Reason(data["reason"])
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Not a letter: {error!r}") from error


@dataclass(slots=True)
class Attempt:
    """One execution of one delivery, as policies see it."""

    attempt_id: str
    task: Any
    task_id: str
    args: Any
    kwargs: Mapping[str, Any]
    retries: int
    header: Mapping[str, Any]
    #: Builds the letter for an outcome; None where no message stands behind the attempt.
    letter: Any = None
    #: What it will be called if it ends well; a policy that ran nothing says so here.
    verdict: Verdict = Verdict.SUCCEEDED
    #: Arguments of a later call that it runs with instead of those of its message.
    newer: tuple[list[Any], dict[str, Any]] | None = None
    #: Of the message, 0 to 9; higher ones first.
    priority: int = 0
    #: Whether the message can wait in the line of a limit; elsewhere it is deferred.
    parks: bool = False
    #: Whether what it holds may be given back with the next call, once its body has ended well: nothing that somebody
    #: could see, or act upon, is told before that call.
    parts: bool = False
    #: When its body's process began with it, in seconds since the epoch, where whoever settles knows.
    started_at: float | None = None
