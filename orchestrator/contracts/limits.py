"""How often and how many at once: what a task declares.

Every limit has a *name*, which people see and change, and an *id*: the name with the key
of one call, under which it is counted. Tasks that declare the same name share the limit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.limiting import Charge
from orchestrator.contracts.rates import MOST, Rate
from orchestrator.contracts.templates import Template, checked

ALGORITHMS = ("sliding", "gcra")
#: Between the parts of an id; names hold none.
PART = "|"
#: Tier of a call that is in no other, and of messages from a priority on.
DEFAULT, PREMIUM = "default", "premium"
PREMIUM_PRIORITY = 6

#: A template over the task's arguments, or a callable that gets them by name.
Key = str | Callable[..., str]


class Limit:
    """What both kinds share: a name, a key, and how they are filled."""

    name: str
    key: Key
    # Read once from what was declared; no fields of the dataclasses.
    _name: Template
    _key: Template | None
    _tier: Template | None = None
    _specs: Mapping[str, str]

    @property
    def where(self) -> str:
        """How it is called in messages."""
        return f"{type(self).__name__}({self.name!r})"

    def _prepare(self) -> None:
        """Read the templates.

        Raises:
            InvalidOption: one of them cannot work.
        """
        if not isinstance(self.name, str) or not self.name.strip() or PART in self.name:
            raise InvalidOption(f"{self.where}: give a name that is not empty and holds no {PART!r}.")
        if not callable(self.key) and not isinstance(self.key, str):
            raise InvalidOption(
                f"{self.where}: key={self.key!r} must be a template such as '{{account}}', or callable."
            )
        checked(self.name, self.where)
        self._set("_name", Template(self.name, self.where))
        self._set("_key", None if callable(self.key) else Template(self.key, f"{self.where}: key={self.key!r}"))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _templates(self) -> list[Template]:
        return [one for one in (self._name, self._key, self._tier) if one is not None]

    @property
    def reads_arguments(self) -> bool:
        """Whether a call's arguments make a difference."""
        return callable(self.key) or any(one.names for one in self._templates())

    def check(self, task: str, parameters: Iterable[inspect.Parameter], sensitive: Iterable[str]) -> None:
        """Refuse templates that a task's signature cannot fill, or that would show what is secret.

        Raises:
            UnknownOption: one names an argument that the task does not have.
            InvalidOption: one names a sensitive argument.
        """
        parameters = list(parameters)
        for one in self._templates():
            one.check(task, parameters, sensitive)

    def _id(self, task: str, arguments: Mapping[str, Any], tier: str = "") -> str:
        name = self._name.fill(task, arguments)
        parts = [f"{name}{PART}{tier}" if tier else name]
        if callable(self.key):
            parts.append(checked(self.key(**arguments), f"Task {task!r}: key of {self.where}"))
        elif self._key and self._key.text:
            parts.append(self._key.fill(task, arguments))
        return PART.join(parts)


@dataclass(frozen=True)
class RateLimit(Limit):
    """At most so many starts in a period, over all workers and machines, by the clock of the store.

    ``"sliding"``: never more than ``count`` units in any ``period``, wherever it begins (an exact log, one entry a
    unit). ``"gcra"``: in any span never more than ``burst`` units plus ``count`` a period, evenly spaced with
    ``burst=1`` (the generic cell rate algorithm of ITU-T I.371; one number a key).

    Args:
        name: what people see and change; tasks with the same name share the limit.
        rate: ``"100/m"``, or tiers with a default: ``{"premium": "1000/h", "default": "100/h"}``.
        key: template over the task's arguments, or a callable that gets them; each key is counted for itself.
        weight: units that a call takes, or a callable that gets the arguments.
        tier: template or callable that names a call's tier. None: ``"premium"`` from priority 6 on.
        algorithm: ``"sliding"`` or ``"gcra"``.
        burst: units that GCRA lets through at once.

    Raises:
        InvalidOption: a value cannot work.
    """

    name: str
    rate: str | Mapping[str, str]
    key: Key = ""
    weight: int | Callable[..., int] = 1
    tier: Key | None = None
    algorithm: str = "sliding"
    burst: int = 1

    def __post_init__(self) -> None:
        self._prepare()
        if self.algorithm not in ALGORITHMS:
            raise UnknownOption.among(str(self.algorithm), ALGORITHMS, f"algorithm of {self.where}")
        if self.burst != 1 and self.algorithm != "gcra":
            raise InvalidOption(
                f'{self.where}: burst={self.burst!r} needs algorithm="gcra"; a sliding window has none.'
            )
        _whole(self.burst, f"{self.where}: burst")
        if self.tier is not None and not isinstance(self.rate, Mapping):
            raise InvalidOption(f"{self.where}: tier={self.tier!r} chooses among rates, but rate={self.rate!r} is one.")
        rates = self.rate if isinstance(self.rate, Mapping) else {"": self.rate}
        if "" not in rates and DEFAULT not in rates:
            raise InvalidOption(f'{self.where}: rate={dict(rates)!r} needs a "default" for calls that are in no tier.')
        self._set("_specs", {tier: self._spec(tier, text) for tier, text in rates.items()})
        template = Template(self.tier, f"{self.where}: tier={self.tier!r}") if isinstance(self.tier, str) else None
        self._set("_tier", template)
        if not callable(self.weight):
            for spec in self._specs.values():
                self._fits(_whole(self.weight, f"{self.where}: weight"), spec, self.where)

    def _spec(self, tier: str, text: str) -> str:
        rate = Rate.parse(text, f"{self.where}, tier {tier!r}" if tier else self.where)
        return f"{self.algorithm[0]} {rate.count} {rate.microseconds} {self.burst} {tiered(self.name, tier)}"

    @property
    def reads_arguments(self) -> bool:
        """Whether a call's arguments make a difference."""
        return callable(self.weight) or callable(self.tier) or super().reads_arguments

    @property
    def names(self) -> dict[str, str]:
        """What people can change -> the rate as declared."""
        rates = self.rate if isinstance(self.rate, Mapping) else {"": self.rate}
        return {tiered(self.name, tier): text for tier, text in rates.items()}

    def charge(self, task: str, arguments: Mapping[str, Any], priority: int) -> Charge:
        """Return what one call takes.

        Args:
            arguments: by name, defaults filled in.

        Raises:
            InvalidOption: key, tier or weight cannot be made out of the arguments.
        """
        tier = self._tier_of(task, arguments, priority)
        weight = self.weight
        if callable(weight):
            where = f"Task {task!r}: weight of {self.where}"
            weight = _whole(weight(**arguments), where)
            self._fits(weight, self._specs[tier], where)
        return Charge(self._id(task, arguments, tier), self._specs[tier], weight)

    def _tier_of(self, task: str, arguments: Mapping[str, Any], priority: int) -> str:
        if not isinstance(self.rate, Mapping):
            return ""
        if self.tier is None:
            return PREMIUM if priority >= PREMIUM_PRIORITY and PREMIUM in self.rate else DEFAULT
        tier = self.tier(**arguments) if callable(self.tier) else self._tier and self._tier.fill(task, arguments)
        if tier not in self.rate:
            raise UnknownOption.among(str(tier), self.rate, f"tier of {self.where} of task {task!r}")
        return str(tier)

    @staticmethod
    def _fits(weight: int, spec: str, where: str) -> None:
        kind, count, _, burst, _ = spec.split(" ", 4)
        most = int(burst if kind == "g" else count)
        if weight > most:
            raise InvalidOption(f"{where}: weight {weight} never fits, the limit lets {most} through at once.")


@dataclass(frozen=True)
class Concurrency(Limit):
    """At most so many runs at once, over all workers and machines; a dead worker's slot frees itself.

    Args:
        name: what people see and change; may be a template over the arguments, as in ``"tenant:{tenant}"``, which
            makes one limit for each tenant.
        limit: runs at once.
        key: template over the task's arguments, or a callable that gets them; each key has slots of its own.

    Raises:
        InvalidOption: a value cannot work.
    """

    name: str
    limit: int
    key: Key = ""

    def __post_init__(self) -> None:
        self._prepare()
        _whole(self.limit, f"{self.where}: limit")

    @property
    def names(self) -> dict[str, str]:
        """What people can change -> the limit as declared."""
        return {self.name: str(self.limit)}

    def charge(self, task: str, arguments: Mapping[str, Any], priority: int) -> Charge:
        """Return what one call takes; errors as for :meth:`RateLimit.charge`."""
        return Charge(self._id(task, arguments), f"c {self.limit} 0 0 {self.name}")


def tiered(name: str, tier: str) -> str:
    """Return the name under which a tier's rate is changed."""
    return f"{name}{PART}{tier}" if tier else name


def _whole(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise InvalidOption(f"{where}={value!r}: give a whole number, 1 or more.")
    return value


#: Name of a limit -> task that declared it first, and the limit.
_declared: dict[str, tuple[str, Limit]] = {}


def check_limits(task: str, limits: object) -> tuple[RateLimit | Concurrency, ...]:
    """Return a task's limits.

    Raises:
        InvalidOption: it is no list of limits, one name stands twice, or another task declares the name otherwise.
    """
    if not isinstance(limits, list | tuple) or not all(isinstance(one, RateLimit | Concurrency) for one in limits):
        raise InvalidOption(
            f"Task {task!r}: limits={limits!r} must be a list of limits, such as "
            '[RateLimit("stripe", "100/m"), Concurrency("pdf", 4)].'
        )
    names = [one.name for one in limits]
    for one in limits:
        if names.count(one.name) > 1:
            raise InvalidOption(f"Task {task!r}: limits name {one.name!r} twice. Give each limit a name of its own.")
        other, known = _declared.setdefault(one.name, (task, one))
        if other != task and _shared(known) != _shared(one):
            raise InvalidOption(
                f"Task {task!r} declares {one!r}, task {other!r} declares {known!r}: limits with one name are shared, "
                "so declare them alike, or give them different names."
            )
        _declared[one.name] = (task, one) if other == task else (other, known)
    return tuple(limits)


def _shared(limit: Limit) -> tuple[Any, ...]:
    """What tasks that share a limit must agree on; keys and weights are each task's own."""
    if isinstance(limit, RateLimit):
        return (RateLimit, limit.names, limit.algorithm, limit.burst)
    return (type(limit), getattr(limit, "limit", None))


def declared() -> dict[str, RateLimit | Concurrency]:
    """Return every limit that a task of this process declares, by name."""
    return {name: limit for name, (_, limit) in _declared.items()}  # type: ignore[misc]
