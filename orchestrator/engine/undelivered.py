"""Messages that the transport cannot deliver: they go to the inbox without ever becoming a request."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.utils.objects import Bunch
from kombu.transport import virtual

from orchestrator.contracts.errors import LetterboxUnavailable, PayloadUnreadable
from orchestrator.contracts.message import HEADER, Attempt, Letter
from orchestrator.contracts.outcome import Outcome, Reason, Verdict
from orchestrator.engine import letters, redispatch
from orchestrator.engine.settlement import settle
from orchestrator.transport.inflight import Aside

logger = logging.getLogger("orchestrator.engine")


def bury(app: Any, aside: Aside) -> None:
    """Put a message that a transport set aside into the inbox. Repeating it makes no second letter.

    Raises:
        LetterboxUnavailable: it is not stored; the message must stay where it is.
    """
    message = _message(aside)
    headers = message.headers if isinstance(message.headers, dict) else {}
    name, task_id = str(headers.get("task") or "?"), str(headers.get("id") or "?")
    task = app.tasks.get(name)
    attempt_id = str(uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(aside.record).hexdigest()))
    outcome = _outcome(aside)

    def letter(outcome: Outcome) -> Letter:
        return letters.build(
            app,
            message,
            outcome,
            attempt_id=attempt_id,
            worker="",
            task=task,
            arguments=_arguments(message),
        )

    attempt = Attempt(
        attempt_id=attempt_id,
        task=task or name,
        task_id=task_id,
        args=(),
        kwargs={},
        retries=0,
        header=headers.get(HEADER) or {},
        letter=letter,
    )
    if not settle(app, attempt, outcome):
        raise LetterboxUnavailable(f"The dead letter of {name}[{task_id}] could not be stored; it is tried again.")
    logger.error("Message %s[%s] went to the inbox as %s: %s", name, task_id, aside.reason, outcome.error_message)
    if aside.reason == Reason.POISON and task_id != "?":
        request = Bunch(
            name=name,
            id=task_id,
            chord=None,
            root_id=headers.get("root_id"),
            correlation_id=message.properties.get("correlation_id"),
            reply_to=message.properties.get("reply_to"),
            errbacks=None,
        )
        app.backend.mark_as_failure(task_id, WorkerLostError(outcome.error_message), request=request)


def called_off(app: Any, raw: bytes) -> None:
    """Settle a message that somebody took out of the broker for good: what its run holds is given back."""
    try:
        message = virtual.Message(json.loads(raw), channel=_Decoder)
        headers = message.headers
        name, task_id, header = str(headers["task"]), str(headers["id"]), headers.get(HEADER) or {}
    except Exception:  # what is no message holds nothing
        return
    attempt = Attempt("", app.tasks.get(name) or name, task_id, args=(), kwargs={}, retries=0, header=header)
    settle(app, attempt, Outcome(Verdict.REVOKED))


def _outcome(aside: Aside) -> Outcome:
    if aside.reason == Reason.POISON:
        text = (
            f"The worker that had this message to itself died {aside.deliveries} times "
            "(ORCHESTRATOR['MAX_DELIVERIES']). Was it killed for its memory?"
        )
        return Outcome(Verdict.LOST, Reason.POISON, "WorkerLostError", text)
    return Outcome(
        Verdict.UNKNOWN, Reason.UNDECODABLE, "DecodeError", f"What lay in queue {aside.queue!r} is no message."
    )


def _message(aside: Aside) -> Any:
    try:
        return virtual.Message(json.loads(aside.message), channel=_Decoder)
    except Exception:  # whatever is wrong with it, the letter keeps the bytes
        return Bunch(
            body=aside.message,
            content_type="application/octet-stream",
            content_encoding="binary",
            headers={},
            properties={},
            delivery_info={"exchange": "", "routing_key": aside.queue},
            errors=None,
        )


class _Decoder:
    """The one thing that kombu's message asks of a channel."""

    no_ack_consumers = None

    @staticmethod
    def decode_body(body: Any, encoding: str | None = None) -> Any:
        return virtual.Channel.codecs[encoding].decode(body) if encoding == "base64" else body


def _arguments(message: Any) -> tuple[Any, Any] | None:
    try:
        args, kwargs, _ = redispatch.decode(letters.wire_message(message))
        return args, kwargs
    except PayloadUnreadable:
        return None
