"""Circuit breakers in Redis: one state for all processes, by Redis's clock."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any

from orchestrator.contracts.breaker import Breaker, Circuit, End, Entry, Forced, State
from orchestrator.contracts.ports import Lease
from orchestrator.stores.redis.leases import RedisLeases, milliseconds
from orchestrator.stores.redis.scripts import Script

_enter = Script("lease", "breaker", "breaker_enter")
_record = Script("lease", "breaker", "breaker_record")
_set = Script("breaker", "breaker_set")
_show = Script("breaker", "breaker_show")

#: Of keys after the prefix, the probe's lease among them; part of the format.
STATE, COUNTS, ATTEMPTS, NAMES, PROBE = "breaker:", "breaker-counts:", "breaker-attempts:", "breakers", "breaker:"
#: Seconds after which an attempt is forgotten whose end nobody told.
FORGOTTEN = 24 * 3600.0
#: Seconds until somebody looks again who waits for a probe's end.
LOOK_AGAIN = 1.0


class RedisBreakers:
    """Breakers in Redis (:class:`~orchestrator.contracts.breaker.Breakers`).

    Each call is one round trip and raises ``StoreUnavailable`` if Redis cannot be asked.
    """

    def __init__(self, leases: RedisLeases) -> None:
        self._leases = leases

    def enter(self, breaker: Breaker, attempt_id: str, seconds: float) -> Entry:
        """Ask whether an attempt may run."""
        name = breaker.name
        keys = [self._state(name), self._names, self._attempts(name), self._probe(name), self._leases.fences]
        window, cooldown = breaker.spans
        config = {"rate": breaker.error_rate, "minimum": breaker.minimum, "window": window, "cooldown": cooldown}
        found: Any = self._leases.run(
            _enter,
            keys,
            [name, attempt_id, milliseconds(seconds), json.dumps(config, sort_keys=True), milliseconds(FORGOTTEN)],
        )
        if found[0] == b"wait":
            return Entry(False, wait=found[1] / 1000 if found[1] > 0 else LOOK_AGAIN)
        return Entry(True, probe=found[0] == b"probe")

    def record(self, breaker: Breaker, attempt_id: str, end: End) -> State | None:
        """Count an attempt's end; doing it again is harmless."""
        name = breaker.name
        window, cooldown = breaker.spans
        keys = [self._state(name), self._counts(name), self._attempts(name), self._probe(name)]
        spans = [milliseconds(window), milliseconds(cooldown)]
        found: Any = self._leases.run(
            _record, keys, [attempt_id, str(end), breaker.error_rate, breaker.minimum, *spans]
        )
        return State(found.decode()) if found else None

    def keep(self, breaker: Breaker, attempt_id: str, seconds: float) -> AbstractContextManager[None]:
        """Renew a probe's lease while a block runs."""
        return self._leases.keep(Lease(PROBE + breaker.name, attempt_id, 0), seconds)

    def set(self, name: str, forced: Forced | None) -> bool:
        """Force a breaker, or let it go on from closed with nothing counted; False if nobody knows it."""
        keys = [self._state(name), self._counts(name), self._names, self._probe(name)]
        return bool(self._leases.run(_set, keys, [name, str(forced or "")]))

    def list(self) -> list[Circuit]:
        """Return all breakers that a task ever asked, by name."""
        with self._leases.pipeline() as pipe:
            pipe.smembers(self._names)
            (names,) = self._leases.execute(pipe)
        return [self.show(name) for name in sorted(found.decode() for found in names)]

    def show(self, name: str) -> Circuit:
        """Return one breaker; closed if nobody knows it."""
        state, left, since, forced, config, good, failed = self._leases.run(
            _show, [self._state(name), self._counts(name)], []
        )
        declared = json.loads(config)
        open_ = state == b"open" and not forced
        return Circuit(
            name=name,
            state=State(forced.decode())
            if forced
            else State.HALF_OPEN
            if open_ and not left
            else State(state.decode()),
            forced=Forced(forced.decode()) if forced else None,
            good=int(good),
            failed=int(failed),
            since=int(since) / 1_000_000,
            wait=int(left) / 1000 if open_ else 0.0,
            error_rate=declared.get("rate", 0.0),
            minimum=declared.get("minimum", 0),
            window=declared.get("window", 0.0),
            cooldown=declared.get("cooldown", 0.0),
        )

    @property
    def _names(self) -> str:
        return self._leases.prefix + NAMES

    def _state(self, name: str) -> str:
        return self._leases.prefix + STATE + name

    def _counts(self, name: str) -> str:
        return self._leases.prefix + COUNTS + name

    def _attempts(self, name: str) -> str:
        return self._leases.prefix + ATTEMPTS + name

    def _probe(self, name: str) -> str:
        return self._leases.name(PROBE + name)
