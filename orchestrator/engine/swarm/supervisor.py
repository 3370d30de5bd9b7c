"""The supervisor: keeps the children going, their leases alive and their time limits, and ends them in order."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from billiard.common import REMAP_SIGTERM
from celery.worker import state
from kombu.asynchronous import Hub

from orchestrator import conf
from orchestrator.engine import pooling
from orchestrator.engine.swarm import forking, heir
from orchestrator.engine.swarm.child import Child
from orchestrator.engine.swarm.control import Controls
from orchestrator.engine.swarm.crew import Berth, Crew, Legacy
from orchestrator.engine.swarm.pool import SOFT_LIMIT
from orchestrator.engine.swarm.post import HEARTBEAT, Post
from orchestrator.transport.steward import Steward

logger = logging.getLogger("orchestrator.engine")

#: Signals that ask for an end in order; a terminal sends the last when it closes.
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Seconds between two looks at what the children do.
LOOK = 0.1
#: Seconds for which the end waits for a broker that is away; what is not returned by then comes back with its lease.
LAST_WORDS = 1.5


class Supervisor:
    """One swarm. Single-threaded, and never runs a task's code."""

    def __init__(self, app: Any, options: Mapping[str, Any]) -> None:
        """Prepare; nothing is forked or connected before :meth:`run`.

        Args:
            options: ``hostname``, ``concurrency``, ``queues``, ``loglevel``, ``grace`` (seconds or None),
                ``max_tasks_per_child``, ``max_memory_per_child`` (KiB), each of these None for no limit.
        """
        self.app = app
        self.options = options
        self.crew = Crew(options["concurrency"])
        self.hub = Hub()
        self.controls = Controls(app, options, self.crew, self.stop)
        self.post = Post(app, options["hostname"], self.hub, self.controls.handlers, self.controls.facade)
        self.controls.post = self.post
        self.post.counts = lambda: (len(self.crew.running()), sum(self.crew.totals().values()))
        #: Sockets that were open before any of ours: the project's, which children share.
        self._inherited: set[int] = set()
        self._legacies: list[Legacy] = []
        #: Owners that have died, whose one message waits for its heir.
        self._bereft: set[str] = set()
        self._announced = False
        self._stopping = False
        self._kill_at = float("inf")
        self._give_up_at = float("inf")

    # --- life ---------------------------------------------------------------------------

    def run(self) -> int:
        """Run until told to stop; return the exit code."""
        queues = ", ".join(self.app.amqp.queues.consume_from)
        logger.info("%s starts %d processes for: %s", self.options["hostname"], len(self.crew.berths), queues)
        self._inherited = forking.open_sockets()
        self._listen_for_signals()
        # The first children before the first connection.
        self._look()
        self.post.connect()
        self.hub.call_repeatedly(LOOK, self._look)
        self.hub.call_repeatedly(HEARTBEAT, self.post.event, "worker-heartbeat")
        self.hub.call_repeatedly(conf.settings().lease_seconds / 4, self._renew)
        self.hub.propagate_errors = self.post.errors  # type: ignore[assignment]  # kombu says ()
        while not self._over():
            try:
                self.hub.run_once()
            except self.post.errors as error:
                self.post.lost(error)
            except Exception:
                # Whatever it is, the children need their supervisor.
                logger.exception("Supervisor")
                time.sleep(LOOK)
        self.post.close()
        logger.warning("%s has ended.", self.options["hostname"])
        return os.EX_OK

    def _over(self) -> bool:
        if not self._stopping or self.crew.living:
            return False
        if not self._legacies:
            return True
        self._give_up_at = min(self._give_up_at, time.monotonic() + LAST_WORDS)
        return time.monotonic() > self._give_up_at

    # --- children -----------------------------------------------------------------------

    def _fork(self, berth: Berth) -> None:
        orders = {**self.crew.prepare(berth, consume=not self._stopping), **self.controls.orders()}
        keep = {*self._inherited, berth.theirs.fileno()}
        berth.pid = forking.fork(lambda: Child(self.app, berth.slot, berth.theirs, self.options).run(orders), keep)

    def _reap(self) -> None:
        """Take note of children that have ended."""
        for berth in self.crew.berths:
            if berth.pid:
                try:
                    pid, status = os.waitpid(berth.pid, os.WNOHANG)
                except ChildProcessError:
                    pid, status = berth.pid, 0
                if pid:
                    self._died(berth, status)

    def _died(self, berth: Berth, status: int) -> None:
        legacy = self.crew.died(berth, status, replace=not self._stopping)
        if legacy is not None:
            self._legacies.append(legacy)
            if legacy.stays and berth.estate is not None:
                self._bereft.add(legacy.owner)
            self._reclaim()

    def _reclaim(self) -> None:
        """Return what dead children held, and have the broker know what they had finished."""
        while self._legacies:
            legacy = self._legacies[0]
            done = self.post.guarded(partial(Steward.reclaim, **legacy.for_broker()))
            if done is None:
                return
            self._legacies.pop(0)
            if done[0]:
                logger.info("%d messages of a process that ended are back in their queues", done[0])

    def _renew(self) -> None:
        owners = {berth.slot.owner for berth in self.crew.berths if berth.pid}
        owners.update(self._bereft, (legacy.owner for legacy in self._legacies))
        for owner in owners - {""}:
            held = self.post.guarded(partial(Steward.renew, owner=owner))
            if held is None:
                return
            if held <= 0:
                self._bereft.discard(owner)

    def _look(self) -> None:
        """What is due: limits, forks, reports, the end."""
        now = time.monotonic()
        for berth in self.crew.berths:
            if berth.pid:
                self._keep_limits(berth, now)
                self.crew.listen(berth)
                berth.lines.flush()
        for berth in self.crew.to_fork():
            self._fork(berth)
        if self._legacies:
            self._reclaim()
        if self._stopping:
            self.crew.nudge()
        if now >= self._kill_at:
            self._kill_at = float("inf")
            logger.warning("The time to finish is over; what runs goes back to its queue.")
            self.crew.kill_all()
        if not self._announced and self.crew.ready():
            self._announced = True
            logger.info("%s ready.", self.options["hostname"])

    def _keep_limits(self, berth: Berth, now: float) -> None:
        serial, soft, hard = berth.slot.deadlines()
        if not serial or berth.verdict:
            return
        if hard and now >= hard:
            run = berth.slot.running()
            if run is not None and run.hard and now >= run.hard:
                self.crew.kill(berth, run, how=heir.TIMED_OUT, limit=run.hard_limit)
        elif soft and now >= soft and berth.soft_told != serial:
            run = berth.slot.running()
            if run is not None and run.serial == serial:
                berth.soft_told = serial
                logger.warning("Soft time limit exceeded for %s[%s]", run.name, run.task_id)
                os.kill(berth.pid, SOFT_LIMIT)

    # --- the end ------------------------------------------------------------------------

    def stop(self, why: str) -> None:
        """Let every child finish what it runs, within the grace, and end."""
        if self._stopping:
            return
        self._stopping = True
        grace = self.options["grace"]
        running = len(self.crew.running())
        within = "" if grace is None else f" for up to {grace:g} s"
        logger.warning("%s: takes no more messages, waits for %d running tasks%s", why, running, within)
        if grace is not None:
            self._kill_at = time.monotonic() + grace
        for berth in self.crew.berths:
            if berth.pid:
                self.crew.retire(berth)
            else:
                berth.wanted = berth.estate is not None

    def hurry(self, why: str) -> None:
        """End now; what runs goes back to its queue."""
        logger.warning("%s: what runs goes back to its queue", why)
        self._stopping = True
        self.crew.kill_all()

    def _listen_for_signals(self) -> None:
        bell, wake = os.pipe()
        for end in (bell, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.hub.add_reader(bell, self._on_signals, bell)
        # Celery's own switch, for platforms whose one signal is to end a worker fast.
        self._fast = {signal.SIGQUIT, *({signal.SIGTERM} if REMAP_SIGTERM == "SIGQUIT" else ())}
        # Children inherit it, and may be told to look before they can.
        signal.signal(forking.LOOK_UP, signal.SIG_IGN)
        for number in (*_STOP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def _on_signals(self, bell: int) -> None:
        for number in set(os.read(bell, 64)):
            if number == signal.SIGCHLD:
                self._reap()
            elif number in self._fast or (number == signal.SIGINT and self._stopping):
                self.hurry(signal.Signals(number).name)
            elif number in _STOP:
                self.stop(signal.Signals(number).name)


def prepare(app: Any, options: Mapping[str, Any]) -> None:
    """Import and build everything that children share, before the first fork."""
    import gc

    from celery.app import trace

    app.loader.init_worker()
    app.amqp.queues.select(options["queues"])
    app.log.setup(options["loglevel"], None, redirect_stdouts=False, colorize=options["colour"])
    # Finalizes the app.
    trace.setup_worker_optimizations(app, options["hostname"])
    _ = app.stack, app.backend, app.amqp.queues, state.total_count
    # What an import asked of a database: a pool has threads, and this process must have none.
    pooling.close()
    gc.collect()
    gc.freeze()
