"""What the dead-letter pages show: bounded, redacted, without the payload column.

Blocks on the database; call it through ``DatabaseThreads``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet
from django.urls import NoReverseMatch, reverse

from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State

PAGE_SIZE = 25
#: Nobody reads the hundredth page; a database would have to walk past everything before it.
LAST_PAGE = 100
GROUPS = 20


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of the inbox."""

    letters: list[DeadLetter]
    groups: list[dict[str, Any]]
    page: int
    more: bool
    #: More letters follow than paging reaches.
    cut: bool


@dataclass(frozen=True, slots=True)
class TaskLetters:
    """What the inbox knows about one task id."""

    #: Letters under this id, newest first; nearly always one.
    letters: list[DeadLetter] = field(default_factory=list)
    #: The letter whose redrive gave this task its id.
    origin: DeadLetter | None = None

    @property
    def open(self) -> DeadLetter | None:
        """The letter that a retry button would redrive."""
        return next((letter for letter in self.letters if letter.state == State.OPEN), None)


def listing(text: str, fingerprint: str, state: str, page: int) -> Listing:
    """Return one page of letters and, on the first page of open ones, the groups they fall into."""
    page = min(max(page, 1), LAST_PAGE)
    start = (page - 1) * PAGE_SIZE
    where = services.Filter(text=text, fingerprint=fingerprint, state=state)
    found = list(_light(where.queryset())[start : start + PAGE_SIZE + 1])
    more = len(found) > PAGE_SIZE
    shows_groups = page == 1 and state == State.OPEN and not fingerprint
    return Listing(
        letters=found[:PAGE_SIZE],
        groups=list(services.groups(where, limit=GROUPS)) if shows_groups else [],
        page=page,
        more=more and page < LAST_PAGE,
        cut=more and page == LAST_PAGE,
    )


def letter(letter_id: str) -> DeadLetter | None:
    """Return one letter, or None."""
    return _light(DeadLetter.objects.filter(pk=letter_id)).first()


def group(fingerprint: str) -> tuple[int, DeadLetter | None]:
    """Return how many open letters share a fingerprint, and the newest of them."""
    where = services.Filter(fingerprint=fingerprint, state=State.OPEN).queryset()
    return where.count(), _light(where).first()


def of_task(task_id: str) -> TaskLetters:
    """Return the letters that belong to a task id."""
    return TaskLetters(
        list(_light(DeadLetter.objects.filter(task_id=task_id))[:5]),
        _light(DeadLetter.objects.filter(redriven_as=task_id)).first(),
    )


def admin_path(letter_id: str) -> str:
    """Return the path of a letter's page in the Django admin, or "" where it has none."""
    try:
        return reverse("admin:orchestrator_deadletters_deadletter_change", args=(letter_id,))
    except NoReverseMatch:
        return ""


def _light(letters: QuerySet[DeadLetter]) -> QuerySet[DeadLetter]:
    """Leave the payload in the database: Flower never shows it."""
    return letters.defer("payload", "edited_payload", "search").select_related("closed_by")
