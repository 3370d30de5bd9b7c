"""Which failures are the same failure.

Same task, same exception class, same message once everything that differs from one
occurrence to the next is folded, same innermost frame of the project's own code.
Line numbers do not count, so a group survives an edit above the failing line.
"""

from __future__ import annotations

import hashlib
import re

#: Characters of a message that count; what follows is nearly always data.
MESSAGE_LENGTH = 500

#: What differs between occurrences -> what stands for it. Order matters: longer shapes first.
FOLDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), "<mail>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE), "<url>"),
    (re.compile(r"\b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<address>"),
    (re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)"), "<text>"),
    (re.compile(r'"(?:[^"\\]|\\.)*"'), "<text>"),
    # At least one digit: "12ab34cd" is hexadecimal, "facade" is a word. As a number, since it may be all digits.
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE), "<n>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)

_FRAME = re.compile(r'^[\s|]*File "(?P<file>[^"]+)", line \d+, in (?P<function>.+)$', re.MULTILINE)
_LAST = re.compile(r"^[\s|+]*(?:Exception Group )?Traceback \(most recent call last\):$", re.MULTILINE)
#: Paths of code that is not the project's: installed packages, the standard library, our engine.
_FOREIGN = re.compile(
    r"(^<|[/\\](site-packages|dist-packages|lib[/\\]python[\d.]+|orchestrator[/\\](engine|policies))[/\\])"
)


def fingerprint(task: str, error_type: str, error_message: str, traceback: str) -> str:
    """Return 32 hexadecimal digits that equal occurrences share."""
    parts = (task, error_type, normalise(error_message), own_frame(traceback))
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=16).hexdigest()


def normalise(message: str) -> str:
    """Return a message without what differs from one occurrence to the next."""
    message = message[: MESSAGE_LENGTH * 8]
    for pattern, stand_in in FOLDS:
        message = pattern.sub(stand_in, message)
    return message.strip()[:MESSAGE_LENGTH]


def own_frame(traceback: str) -> str:
    """Return ``directory/file.py:function`` of the innermost own frame, or an empty string.

    Of a chain of exceptions the one that ended the task counts, which is the last.
    Only the end of the path counts, so that machines with other base directories agree.
    """
    starts = [match.end() for match in _LAST.finditer(traceback)]
    for text in (traceback[starts[-1] :] if starts else "", traceback):
        frames = [frame for frame in _FRAME.finditer(text) if not _FOREIGN.search(frame["file"])]
        if frames:
            path = re.split(r"[/\\]", frames[-1]["file"])
            return f"{'/'.join(path[-2:])}:{frames[-1]['function'].strip()}"
    return ""
