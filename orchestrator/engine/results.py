"""Results of many tasks, read together where the result backend can; Celery asks for each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery import states
from celery.result import EagerResult, GroupResult, ResultSet


class Together(ResultSet):  # type: ignore[misc]  # Celery is untyped
    """A set of results whose looks at all members cost as much as a look at one.

    It needs a backend with ``states_of(task_ids)``, a mapping; with another it does as Celery does.
    """

    def successful(self) -> bool:
        """Return whether all members succeeded."""
        return all(state == states.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Return whether a member failed."""
        return any(state == states.FAILURE for state in self._states())

    def waiting(self) -> bool:
        """Return whether a member has not ended."""
        return not self.ready()

    def ready(self) -> bool:
        """Return whether all members have ended."""
        return all(state in states.READY_STATES for state in self._states())

    def completed_count(self) -> int:
        """Return how many members succeeded; a group among them counts as one."""
        if any(isinstance(member, ResultSet) for member in self.results):
            count: int = super().completed_count()
            return count
        return sum(state == states.SUCCESS for state in self._states())

    def join(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for all members; return their values in order. Arguments as in Celery."""
        return (self.join_native if self.supports_native_join else super().join)(*args, **kwargs)

    def _states(self) -> Iterable[str]:
        members = list(_leaves(self.results))
        ask: Callable[[list[str]], Any] | None = getattr(self.backend, "states_of", None)
        if ask is None:
            return (member.state for member in members)
        # Eager results and those that were seen to end know their state.
        known, asked = [], []
        for member in members:
            if isinstance(member, EagerResult) or member._cache is not None:
                known.append(member.state)
            else:
                asked.append(member)
        found = ask([member.id for member in asked]) if asked else {}
        return known + [found.get(member.id, states.PENDING) for member in asked]


class TogetherGroup(Together, GroupResult):  # type: ignore[misc]  # Celery is untyped
    """The same for groups."""


def _leaves(results: Iterable[Any]) -> Iterator[Any]:
    for result in results:
        if isinstance(result, ResultSet):
            yield from _leaves(result.results)
        else:
            yield result
