"""The dead-letter pages. Every verb is one of :mod:`orchestrator.deadletters.services`."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.utils import timezone
from flower.views import BaseHandler
from flower.views.tasks import TaskView
from tornado.web import HTTPError

from orchestrator.contracts.errors import OrchestratorError
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.flower import inbox
from orchestrator.flower.access import Right
from orchestrator.flower.guard import LOOKUP_SECONDS, Guard

#: Letters that one click handles; more would keep a browser waiting longer than it likes.
BULK_LIMIT = 500
#: What the state filter says for all of them; an empty value would be lost in links.
ANY_STATE = "any"


class InboxHandler(Guard, BaseHandler):  # type: ignore[misc]
    """Base of our pages: who may see letters, and how to get one."""

    to_read = Right.LETTERS
    audits = False

    async def lookup(self, call: Any, *args: Any) -> Any:
        """Ask the database off the event loop."""
        return await self.parts.lookups.run(LOOKUP_SECONDS, call, *args)

    async def letter(self, letter_id: str) -> DeadLetter:
        """Return a letter.

        Raises:
            HTTPError: 404.
        """
        try:
            found = await self.lookup(inbox.letter, str(uuid.UUID(letter_id)))
        except ValueError:
            found = None
        if found is None:
            raise HTTPError(
                404, f"There is no dead letter {letter_id}; handled ones are deleted in time (CLOSED_LETTERS_DAYS)."
            )
        return found  # type: ignore[no-any-return]

    async def act(self, call: Any, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """Run a verb in its own threads: a long one must not keep others from logging in.

        Returns:
            Its result and "", or None and why it was refused.
        """
        try:
            return await self.parts.verbs.run(None, call, *args, by=self.visitor.user, **kwargs), ""
        except DeadLetter.DoesNotExist:
            return None, "This dead letter is gone."
        except OrchestratorError as error:
            return None, str(error)

    async def show_letter(self, letter_id: str, problem: str = "") -> None:
        """Render the page of a letter; with a problem the answer is 409."""
        letter = await self.letter(letter_id)
        if problem:
            self.set_status(409)
        admin = inbox.admin_path(str(letter.pk))
        self.render(
            "inbox_letter.html",
            letter=letter,
            problem=problem,
            admin_url=self.parts.web_url + admin if admin else "",
            when=when,
        )


class ListHandler(InboxHandler):
    """Groups of the same failure, and the letters one by one."""

    async def get(self) -> None:
        """Show one page."""
        text = self.get_query_argument("q", "").strip()[:200]
        fingerprint = self.get_query_argument("fingerprint", "").strip()[:32]
        state = self.get_query_argument("state", State.OPEN)
        if state != ANY_STATE and state not in State.values:
            state = State.OPEN.value
        number = self.get_query_argument("page", "1")
        page = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1
        found = await self.lookup(inbox.listing, text, fingerprint, "" if state == ANY_STATE else state, page)

        def link(**changes: Any) -> str:
            query = {"q": text, "fingerprint": fingerprint, "state": state, "page": found.page} | changes
            return f"{self.reverse_url('inbox')}?{urlencode({k: v for k, v in query.items() if v})}"

        self.render(
            "inbox_list.html",
            found=found,
            text=text,
            fingerprint=fingerprint,
            state=state,
            states=[*State.choices, (ANY_STATE, "Any state")],
            link=link,
            short=short,
            when=when,
        )


class LetterHandler(InboxHandler):
    """One letter."""

    async def get(self, letter_id: str) -> None:
        """Show it."""
        await self.show_letter(letter_id)


class RedriveHandler(InboxHandler):
    """Publishes the exact message of one letter again."""

    to_write = Right.REDRIVE

    async def post(self, letter_id: str) -> None:
        """Redrive, then show under which id the task runs again."""
        letter = await self.letter(letter_id)
        _, problem = await self.act(services.redrive, str(letter.pk))
        if problem:
            await self.show_letter(letter_id, problem)
        elif self.get_body_argument("back", "") == "task":
            self.redirect(self.reverse_url("task", letter.task_id), status=303)
        else:
            self.redirect(self.reverse_url("inbox_letter", letter.pk), status=303)


class DiscardHandler(InboxHandler):
    """Closes one letter for good."""

    to_write = Right.DISCARD

    async def post(self, letter_id: str) -> None:
        """Discard with the given reason."""
        letter = await self.letter(letter_id)
        _, problem = await self.act(
            services.discard, str(letter.pk), reason=self.get_body_argument("reason", "").strip()
        )
        if problem:
            await self.show_letter(letter_id, problem)
        else:
            self.redirect(self.reverse_url("inbox_letter", letter.pk), status=303)


class GroupHandler(InboxHandler):
    """The confirm page of a group: says how many letters an action would handle."""

    async def get(self, fingerprint: str) -> None:
        """Show number, sample and buttons."""
        await self.show_group(fingerprint)

    async def show_group(self, fingerprint: str, report: Any = None, verb: str = "", problem: str = "") -> None:
        """Render the group, after an action with what it did."""
        count, sample = await self.lookup(inbox.group, fingerprint)
        if sample is None and report is None and not problem:
            raise HTTPError(404, f"No open dead letters with fingerprint {fingerprint}.")
        if problem:
            self.set_status(409)
        self.render(
            "inbox_group.html",
            fingerprint=fingerprint,
            count=count,
            sample=sample,
            report=report,
            verb=verb,
            problem=problem,
            limit=BULK_LIMIT,
            until=timezone.now().isoformat(),
            when=when,
        )

    def confirmed(self, fingerprint: str) -> services.Filter:
        """Return the letters that the confirm page showed: later ones of the group are not among them.

        Raises:
            HTTPError: 400 if the form is not the one of the confirm page.
        """
        try:
            until = datetime.fromisoformat(self.get_body_argument("until", ""))
            if timezone.is_naive(until):
                raise ValueError(until)
        except ValueError:
            raise HTTPError(400, "This form does not come from the confirm page; open the group again.") from None
        return services.Filter(fingerprint=fingerprint, state=State.OPEN, until=until)


class GroupRedriveHandler(GroupHandler):
    """Redrives a group."""

    to_write = Right.REDRIVE

    async def post(self, fingerprint: str) -> None:
        """Redrive what was confirmed and report it."""
        where = self.confirmed(fingerprint)
        report, problem = await self.act(services.redrive_where, where, limit=BULK_LIMIT)
        await self.show_group(fingerprint, report, "redriven", problem)


class GroupDiscardHandler(GroupHandler):
    """Discards a group."""

    to_write = Right.DISCARD

    async def post(self, fingerprint: str) -> None:
        """Discard what was confirmed and report it."""
        where = self.confirmed(fingerprint)
        reason = self.get_body_argument("reason", "").strip()
        report, problem = await self.act(services.discard_where, where, reason=reason)
        await self.show_group(fingerprint, report, "discarded", problem)


class TaskPage(InboxHandler, TaskView):  # type: ignore[misc]
    """Flower's task page, with the task's dead letter."""

    to_read = Right.VIEW
    audits = True

    async def get(self, task_id: str) -> None:
        """Show Flower's page, or the letter's where Flower has forgotten the task but the inbox has not."""
        self.letters = inbox.TaskLetters()
        if self.visitor.may(Right.LETTERS):
            self.letters = await self.lookup(inbox.of_task, task_id)
        try:
            TaskView.get(self, task_id)
        except HTTPError as error:
            if error.status_code == 404 and self.letters.letters:
                self.redirect(self.reverse_url("inbox_letter", self.letters.letters[0].pk))
                return
            if error.status_code == 404 and self.letters.origin:
                why = f"Task {task_id} was published as the redrive of task {self.letters.origin.task_id}."
                raise HTTPError(404, f"{why} No worker has reported it since this Flower was started.") from None
            raise


def when(moment: datetime | None) -> str:
    """Return a time as the pages show it, in Django's time zone."""
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z") if moment else "—"


def short(text: str | None, length: int) -> str:
    """Return the beginning of a text, with an ellipsis where it was cut."""
    text = text or ""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


#: (pattern, handler, name) of every page of ours.
PAGES: tuple[tuple[str, type[InboxHandler], str], ...] = (
    (r"/dead-letters", ListHandler, "inbox"),
    (r"/dead-letters/group/([0-9a-zA-Z_-]{1,64})", GroupHandler, "inbox_group"),
    (r"/dead-letters/group/([0-9a-zA-Z_-]{1,64})/redrive", GroupRedriveHandler, "inbox_group_redrive"),
    (r"/dead-letters/group/([0-9a-zA-Z_-]{1,64})/discard", GroupDiscardHandler, "inbox_group_discard"),
    (r"/dead-letters/([0-9a-fA-F-]{32,36})", LetterHandler, "inbox_letter"),
    (r"/dead-letters/([0-9a-fA-F-]{32,36})/redrive", RedriveHandler, "inbox_redrive"),
    (r"/dead-letters/([0-9a-fA-F-]{32,36})/discard", DiscardHandler, "inbox_discard"),
    (r"/task/(.+)", TaskPage, "task"),
)
