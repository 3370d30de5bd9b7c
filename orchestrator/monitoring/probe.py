"""``python -m orchestrator.monitoring.probe URL``: exit code 0 if the page answers with 200.

For containers, which often have no curl. Standard library only: a probe that runs every
few seconds must not load Django.
"""

import sys
import urllib.error
import urllib.request

#: Seconds. Readiness itself takes at most three.
TIMEOUT = 6.0


def ask(url: str) -> tuple[bool, str]:
    """Return whether the page is fine, and what it said in short."""
    try:
        # Straight to the address, whatever proxy the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIMEOUT) as answer:
            return answer.status == 200, f"{answer.status} {answer.read(500).decode(errors='replace')}"
    except urllib.error.HTTPError as error:
        return False, f"{error.code} {error.read(500).decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return False, f"{type(error).__name__}: {error}"


def main(arguments: list[str]) -> int:
    """Ask the one URL given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m orchestrator.monitoring.probe URL\n")
        return 64
    fine, said = ask(arguments[0])
    sys.stdout.write(said + "\n")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
