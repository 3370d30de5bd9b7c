"""``python -m orchestrator.demo``: the demo itself, in a process whose settings nobody has read yet."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from rich.console import Console

from orchestrator.contracts.errors import OrchestratorError
from orchestrator.demo.run import Seen, demonstrate
from orchestrator.demo.screen import Screen
from orchestrator.demo.stack import GRACE, Stack

#: Seconds that tasks get to end after Ctrl-C.
HURRIED = 2.0
#: Recipients that the mail server asks to come back, so that retries are seen as well.
GREYLISTED = 3


class Interrupted(BaseException):
    """Somebody wants the demo to end."""


def main() -> int:
    """Run the demo; return its exit code: 0 all seen, 1 something missing, 2 cannot start, 130 interrupted."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    errors = Console(stderr=True)
    screen = Screen(errors if options.json else Console(), quiet=options.json)
    directory = Path(tempfile.mkdtemp(prefix="orchestrator-demo-"))
    stack = Stack(directory, greylisted=GREYLISTED)
    grace = HURRIED
    try:
        try:
            stack.open()
        except OrchestratorError as error:
            _print(errors, str(error))
            return 2
        logging.disable(logging.INFO)
        seen = demonstrate(stack, screen, options.timeout)
        grace = GRACE
        return _tell(seen, screen, stack, errors, as_json=options.json)
    except Interrupted:
        _print(errors, "Interrupted; stopping.")
        return 130
    except Exception:
        # The traceback alone does not say what the other processes went through.
        _print(errors, stack.logs())
        raise
    finally:
        screen.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stack.close(grace)
        if options.keep:
            _print(errors, f"Kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.demo")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--timeout", type=float, required=True)
    return parser.parse_args()


def _tell(seen: Seen, screen: Screen, stack: Stack, errors: Console, *, as_json: bool) -> int:
    screen.summarise(seen.parts, seen.seconds)
    if as_json:
        sys.stdout.write(json.dumps(seen.as_dict()) + "\n")
        sys.stdout.flush()
    if seen.ok:
        return 0
    _print(errors, stack.logs())
    for text in seen.missing:
        _print(errors, f"Not seen: {text}")
    return 1


def _print(console: Console, text: str) -> None:
    """Print a text as it is: no markup, and no line broken by us."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main())
