"""Which time limits an attempt really has.

Celery starts the clock of the hard limit only when the soft one has passed. So a hard
limit that is shorter than an inherited soft limit would never act in time, and an
inherited hard limit that is shorter than a soft one would act together with it. What
somebody asked for wins over what is only inherited from a setting.
"""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.errors import InvalidOption

#: Seconds between a soft limit and the hard one where only the soft one was asked for.
GRACE = 60.0

Limits = tuple[float | None, float | None]


def effective(hard: float | None, soft: float | None, inherited_soft: float | None) -> Limits:
    """Return ``(hard, soft)`` in seconds, None for no limit.

    Args:
        hard, soft: as they came with the message, from the task or from the settings.
        inherited_soft: the soft limit of the settings, which nobody asked for.
    """
    if hard and soft and soft >= hard:
        if soft == inherited_soft:
            return hard, None
        return soft + GRACE, soft
    return hard or None, soft or None


def declare(task: Any, hard: float | None, soft: float | None) -> None:
    """Complete the limits of a task class that declares one of them, before Celery fills in the other.

    Raises:
        InvalidOption: both are declared, and the soft one could never act.
    """
    if hard is not None and soft is not None and soft >= hard:
        raise InvalidOption(
            f"Task {task.name or task.__qualname__!r}: soft_time_limit={soft!r} must be less than "
            f"time_limit={hard!r}, or it could never act."
        )
    if hard is not None and soft is None:
        # Nought is "none" to Celery's pool, and not None, so no setting replaces it.
        task.soft_time_limit = 0
    elif soft is not None and hard is None:
        task.time_limit = soft + GRACE
