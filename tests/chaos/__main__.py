"""``python -m tests.chaos [NAME…] [--seed N] [--seconds S] [--tasks N] [--database D] [--json] [--list]``."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys

from tests.chaos.catalogue import SCENARIOS, Orders, Report, scenario
from tests.support import environment, far_side

#: A chaos world's database is ours alone, because it will be stopped.
DATABASES = ("postgresql", "sqlite")


def main(arguments: list[str]) -> int:
    """Play the named scenarios, or all of them; 1 if anything was lost, doubled or left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break things and count what is left.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is given")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object a scenario, one a line")
    parser.add_argument("--seed", type=int, help="repeat the moves of an earlier run; drawn and printed if not given")
    parser.add_argument("--seconds", type=float, default=30, help="seconds of trouble (default: %(default)s)")
    parser.add_argument("--tasks", type=int, help="how many tasks; each scenario has a default")
    parser.add_argument("--database", choices=DATABASES, default=DATABASES[0], help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or (options.tasks is not None and options.tasks < 1):
        parser.error("--seconds must be above 0 and --tasks 1 or more")
    if options.list:
        print("\n".join(SCENARIOS))
        return 0
    if unknown := [name for name in options.names if name not in SCENARIOS]:
        parser.error(f"no scenario {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}")
    os.environ["TEST_DATABASE"] = options.database
    environment.standalone(own_database=True)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    failed = False
    for name in options.names or SCENARIOS:
        _clean()
        report = scenario(name)(Orders(seed, options.seconds, options.tasks))
        failed |= not report.ok
        print(json.dumps(report.to_json()) if options.json else _table(report), flush=True)
    return 1 if failed else 0


def _clean() -> None:
    """Empty broker, database and far side: no scenario sees another's remains."""
    from django.core.management import call_command

    environment.world().broker.flush()
    call_command("flush", verbosity=0, interactive=False)
    far_side.clear()


def _table(report: Report) -> str:
    lines = [f"{report.name}: {'ok' if report.ok else 'FAILED'}"]
    return "\n".join([*lines, *(f"  {key:<12} {value}" for key, value in report.to_json().items() if key != "name")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
