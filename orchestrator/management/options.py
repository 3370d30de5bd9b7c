"""Values that several commands take, and what is refused."""

from __future__ import annotations

from argparse import ArgumentTypeError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    return _whole(text, 1, None)


def port(text: str) -> int:
    """Read a port number."""
    return _whole(text, 1, 65535)


def seconds(text: str) -> float:
    """Read a number of seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return number


def names(text: str) -> list[str]:
    """Read names that are separated by commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ArgumentTypeError("give at least one name")
    return found


def _whole(text: str, least: int, most: int | None) -> int:
    wanted = f"a whole number from {least} to {most}" if most else f"a whole number of {least} or more"
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not {wanted}") from None
    if number < least or (most is not None and number > most):
        raise ArgumentTypeError(f"{text!r} is not {wanted}")
    return number
