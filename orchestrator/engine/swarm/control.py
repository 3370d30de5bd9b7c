"""Remote control of a swarm: the supervisor answers for all its children, also while every one of them is busy."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery.platforms import signals as signal_names
from celery.utils.functional import maybe_list
from celery.worker import state as worker_state
from celery.worker.control import Panel, nok, ok
from kombu.utils.json import loads

from orchestrator.engine import inspection  # noqa: F401  (replaces two answers of Celery's)
from orchestrator.engine.revocation import BY_STAMPS, bears, stamps_in
from orchestrator.engine.swarm import heir
from orchestrator.engine.swarm.crew import Berth, Crew
from orchestrator.engine.swarm.post import Post
from orchestrator.engine.swarm.slots import Running

logger = logging.getLogger("orchestrator.engine")

#: Commands that every child carries out itself, and a later child as well.
FORWARDED = (
    "add_consumer",
    "cancel_consumer",
    "rate_limit",
    "time_limit",
    "enable_events",
    "disable_events",
)
#: Commands of a pool that can change its size.
REFUSED = ("pool_grow", "pool_shrink", "autoscale", "election")


class _Facade:
    """Stands where Celery's own commands expect a consumer."""

    def __init__(self, controls: Controls) -> None:
        self.controller = controls
        self.gossip = None

    @property
    def event_dispatcher(self) -> Any:
        return self.controller.post.dispatcher if self.controller.post is not None else None


class Controls:
    """Celery's commands, answered for a swarm."""

    def __init__(self, app: Any, options: Mapping[str, Any], crew: Crew, stop: Callable[[str], None]) -> None:
        self._app = app
        self._options = options
        self._crew = crew
        self._stop = stop
        #: Set once it is there.
        self.post: Post | None = None
        self.facade = _Facade(self)
        self._began = time.time()
        self._replay: list[dict[str, Any]] = []
        own: dict[str, Callable[..., Any]] = {
            "active": self._active,
            "dump_active": self._active,
            "reserved": _nothing,
            "dump_reserved": _nothing,
            "scheduled": _nothing,
            "dump_schedule": _nothing,
            "query_task": self._query,
            "revoke": self._revoke,
            "terminate": self._terminate,
            BY_STAMPS: self._revoke_by_stamps,
            "active_queues": self._active_queues,
            "pool_restart": self._restart,
            "heartbeat": self._heartbeat,
            "shutdown": self._shutdown,
            **{name: self._forwarder(name) for name in FORWARDED},
            **dict.fromkeys(REFUSED, _refuse),
        }
        self.handlers: dict[str, Any] = {**Panel.data, **own}

    def orders(self) -> dict[str, Any]:
        """Return what a new child must know of what was commanded so far."""
        return {"revoked": list(worker_state.revoked), "replay": self._replay}

    # --- looks ------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return what ``inspect stats`` shows; Flower lives on it."""
        crew, options = self._crew, self._options
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "total": crew.totals(),
            "pid": os.getpid(),
            "clock": str(self._app.clock),
            "uptime": round(time.time() - self._began),
            "pool": {
                "implementation": "orchestrator.engine.swarm",
                "max-concurrency": options["concurrency"],
                "processes": [berth.pid for berth in crew.berths if berth.pid],
                "max-tasks-per-child": options["max_tasks_per_child"] or "N/A",
                "put-guarded-by-semaphore": False,
                "timeouts": [],
                "children": [_summary(berth) for berth in crew.berths],
            },
            "broker": self.post.info() if self.post is not None else {},
            "prefetch_count": options["concurrency"],
            "rusage": {name: getattr(usage, f"ru_{name}") for name in ("utime", "stime", "maxrss")},
        }

    def _active(self, _: Any, **__: Any) -> list[dict[str, Any]]:
        return [self._info(berth, run) for berth, run in self._crew.running()]

    def _query(self, _: Any, ids: Any, **__: Any) -> dict[str, Any]:
        wanted = set(maybe_list(ids) or ())
        running = self._crew.running()
        return {run.task_id: ("active", self._info(berth, run)) for berth, run in running if run.task_id in wanted}

    def _info(self, berth: Berth, run: Running) -> dict[str, Any]:
        # Texts of the arguments, not the arguments: those are redacted.
        return {
            "id": run.task_id,
            "name": run.name,
            "type": run.name,
            "args": run.args,
            "kwargs": run.kwargs,
            "hostname": self._options["hostname"],
            "time_start": run.started_at,
            "acknowledged": False,
            "delivery_info": {},
            "worker_pid": berth.pid,
        }

    def _active_queues(self, _: Any, **__: Any) -> list[Any]:
        queues = self._app.amqp.queues.consume_from.values()
        return [dict(queue.as_dict(recurse=True)) for queue in queues]

    # --- deeds ------------------------------------------------------------------------

    def _revoke(self, _: Any, task_id: Any, terminate: bool = False, signal: Any = None, **__: Any) -> Any:
        ids = {str(one) for one in maybe_list(task_id) or ()}
        worker_state.revoked.update(ids)
        self._forward("revoke", {"task_id": sorted(ids)}, keep=False)
        if not terminate:
            logger.info("Tasks flagged as revoked: %s", ", ".join(sorted(ids)))
            return ok(f"tasks {', '.join(sorted(ids))} flagged as revoked")
        ended = self._end(lambda run: run.task_id in ids, signal)
        return ok(f"terminate: {', '.join(ended)}" if ended else "terminate: tasks unknown")

    def _revoke_by_stamps(self, _: Any, headers: Any, terminate: bool = False, signal: Any = None, **__: Any) -> Any:
        wanted = stamps_in(headers)
        # Not with ``terminate``: a child that is busy hears of it when its task has ended.
        self._forward(BY_STAMPS, {"headers": headers}, keep=True)
        if not terminate:
            return ok(f"headers {headers} flagged as revoked, but not terminated")
        ended = self._end(lambda run: bool(run.stamps) and bears(_stamps(run), wanted), signal)
        return ok(f"headers {headers} revoked; terminate: {', '.join(ended)}" if ended else "terminate: tasks unknown")

    def _end(self, meant: Callable[[Running], bool], signal: Any) -> list[str]:
        """Kill what runs and is meant; return the tasks' ids."""
        number = int(signal_names.signum(signal or "TERM"))
        ended = []
        for berth, run in self._crew.running():
            if meant(run) and not berth.verdict:
                logger.info("Terminating %s (%s)", run.task_id, number)
                if self._crew.kill(berth, run, how=heir.TERMINATED, signum=number):
                    ended.append(run.task_id)
        return ended

    def _terminate(self, panel: Any, signal: Any, task_id: Any, **__: Any) -> Any:
        return self._revoke(panel, task_id, terminate=True, signal=signal)

    def _heartbeat(self, _: Any, **__: Any) -> None:
        if self.post is not None:
            self.post.event("worker-heartbeat")

    def _restart(self, _: Any, **__: Any) -> Any:
        for berth in self._crew.berths:
            if berth.pid:
                self._crew.retire(berth)
        return ok("each process is replaced after the task that it runs")

    def _shutdown(self, _: Any, msg: str = "Got shutdown from remote", **__: Any) -> None:
        self._stop(msg)

    def _forwarder(self, name: str) -> Callable[..., Any]:
        def forward(_: Any, **arguments: Any) -> Any:
            queues = self._app.amqp.queues
            if name == "add_consumer":
                queue = arguments["queue"]
                if queue in queues:
                    queues.select_add(queues[queue])
                else:
                    rest = {key: value for key, value in arguments.items() if key != "queue" and value is not None}
                    queues.select_add(queue, **rest)
            elif name == "cancel_consumer":
                queues.deselect(arguments["queue"])
            self._forward(name, arguments, keep=True)
            return ok(f"{name}: told to every process")

        return forward

    def _forward(self, name: str, arguments: dict[str, Any], *, keep: bool) -> None:
        command = {"method": name, "arguments": arguments}
        if keep:
            self._replay.append(command)
        for berth in self._crew.berths:
            if berth.pid:
                berth.lines.send(command)
                berth.slot.told += 1


def _summary(berth: Berth) -> dict[str, Any]:
    run = berth.slot.running() if berth.pid else None
    known: dict[str, Any] = {"pid": berth.pid, "tasks": berth.slot.started}
    if run is not None:
        known.update(task=run.name, id=run.task_id, seconds=round(run.seconds, 1))
    return known


def _stamps(run: Running) -> dict[str, Any]:
    try:
        return dict(loads(run.stamps))
    except ValueError:
        logger.warning("%s[%s] bears too many stamps to be ended by one of them.", run.name, run.task_id)
        return {}


def _nothing(*_: Any, **__: Any) -> list[Any]:
    """Nothing waits in a swarm: what is delayed or reserved lies at the broker."""
    return []


def _refuse(*_: Any, **__: Any) -> Any:
    return nok("A swarm has as many processes as it was started with; start another, or change --concurrency.")
