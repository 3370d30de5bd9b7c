"""The ids of what one bulk published, in the same memory for ten messages and ten millions."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any, overload


class Published(Sequence[str]):
    """What one bulk published: the ids, in order, each made when it is asked for.

    Takes the same memory for ten messages and ten millions.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._count = 0
        # 72 random bits once, then a number: shaped as a UUID, which they are to whoever stores or shows them.
        noise = secrets.token_hex(9)
        self._head = f"{noise[:8]}-{noise[8:12]}-4{noise[12:15]}-{'89ab'[secrets.randbelow(4)]}{noise[15:]}-"
        #: Ids that somebody else chose.
        self._given: dict[int, str] = {}

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.id_of(number) for number in range(self._count)[index]]
        return self.id_of(range(self._count)[index])

    def __iter__(self) -> Iterator[str]:
        return map(self.id_of, range(self._count))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Published: {self._count} messages>"

    def results(self) -> Iterator[Any]:
        """Yield Celery's result object of each."""
        return map(self._app.AsyncResult, self)

    def id_of(self, number: int) -> str:
        """Return the id of the message with this number, published or to be."""
        return self._given.get(number) or f"{self._head}{number:012x}"

    def note(self, number: int, task_id: str) -> None:
        """Note the id of a message, in case somebody else chose it."""
        if task_id != self.id_of(number):
            self._given[number] = task_id

    def through(self, count: int) -> None:
        """Note how many messages are published."""
        self._count = count
