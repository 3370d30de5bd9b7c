"""``python -m tests.benchmarks [NAME…] [--json] [--list] [--runs N] [--seconds S]``."""

from __future__ import annotations

import argparse
import json
import sys

from tests.benchmarks.catalogue import Budget, Result, benchmarks


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or all of them; 0 if they could be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure ours against a peer.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is given")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object a benchmark, one a line")
    parser.add_argument("--runs", type=int, default=20, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300, help="start no new pair later (default: %(default)s)")
    options = parser.parse_args(arguments)
    known = benchmarks()
    if options.list:
        print("\n".join(known))
        return 0
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    if options.runs < 1 or options.seconds <= 0:
        parser.error("--runs must be 1 or more and --seconds above 0")

    from tests.support import environment

    environment.standalone()
    for name in options.names or known:
        result = known[name](Budget(options.runs, options.seconds))
        print(json.dumps(result.to_json()) if options.json else _table(result), flush=True)
    return 0


def _table(result: Result) -> str:
    lines = [
        f"{result.name}: {result.runs} paired runs, {result.unit}",
        f"  ours   {result.ours:>10g}",
        f"  peer   {result.peer:>10g}",
        f"  ratio  {result.ratio:>10g}   ({result.min:g} to {result.max:g})",
    ]
    return "\n".join([*lines, *(f"  {key:<20} {value}" for key, value in result.more.items())])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
