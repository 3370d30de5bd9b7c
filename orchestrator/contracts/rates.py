"""How often: ``"100/m"`` as a count and a period."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.contracts.errors import InvalidOption

#: Unit -> seconds.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Largest count that stays exact in the store's numbers.
MOST = 10**9

_RATE = re.compile(r"(\d+)/(\d*)([smhd])")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` in any ``period`` seconds."""

    count: int
    period: float

    @classmethod
    def parse(cls, text: object, where: str, *, least: int = 1) -> Rate:
        """Read ``"100/m"`` or ``"5/10s"``.

        Args:
            where: what it belongs to, for the message.
            least: smallest count that makes sense; 0 lets nothing through.

        Raises:
            InvalidOption: it is no rate; the message names the value and what would be one.
        """
        found = _RATE.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None or not least <= int(found[1]) <= MOST or found[2] == "0":
            raise InvalidOption(
                f"{where}: {text!r} is no rate. Give a whole number from {least} on and a period in s, m, h or d, "
                'such as "100/m", "10/s" or "5/10s".'
            )
        return cls(int(found[1]), float(int(found[2] or 1) * UNITS[found[3]]))

    @property
    def microseconds(self) -> int:
        """The period."""
        return int(self.period * 1_000_000)
