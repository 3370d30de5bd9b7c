"""A child: a whole Celery worker with one slot, which fetches for itself and answers to its supervisor."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from multiprocessing import current_process
from typing import Any

from celery import signals
from celery.utils.collections import AttributeDict
from celery.utils.functional import pass1
from celery.worker import WorkController, state
from celery.worker.control import Panel

from orchestrator.engine import holding
from orchestrator.engine.swarm import heir
from orchestrator.engine.swarm.consumer import consumer_class
from orchestrator.engine.swarm.forking import LOOK_UP
from orchestrator.engine.swarm.lines import Lines
from orchestrator.engine.swarm.pool import ChildPool
from orchestrator.engine.swarm.slots import GO_ON, READY, Slot
from orchestrator.transport import office

logger = logging.getLogger("orchestrator.engine")

#: Seconds between two tries to leave while something waits here for its letter to be stored.
HELD = 0.2
#: Seconds between two reports of what has been done.
REPORT = 1.0


class _Nobody:
    """A set that nothing stays in."""

    def add(self, _: Any) -> None:
        """Forget it at once."""


class Child:
    """One child process, from its fork to its end."""

    def __init__(self, app: Any, slot: Slot, lines: Lines, options: Mapping[str, Any]) -> None:
        self._app = app
        self._slot = slot
        self._lines = lines
        self._options = options
        self._consumer: Any = None
        self._orders: dict[str, Any] = {}
        self._reported = 0
        self._told = 0

    def run(self, orders: dict[str, Any]) -> int:
        """Work until told to stop; return the exit code.

        Args:
            orders: ``number`` of its berth, ``estate``, ``revoked``, ``replay``.
        """
        self._orders = orders
        self._app.conf.worker_enable_remote_control = False
        # Connections of the supervisor must not be used here.
        self._app._after_fork()
        current_process().name = f"Child-{orders['number'] + 1}"
        signal.signal(LOOK_UP, self._look_up)
        office.watched_by(self._slot)
        ChildPool.slot = self._slot
        ChildPool.retire = staticmethod(self._retire)
        ChildPool.most_tasks = self._options["max_tasks_per_child"] or 0
        ChildPool.most_memory = self._options["max_memory_per_child"] or 0
        if not self._app.conf.worker_deduplicate_successful_tasks:
            # Celery remembers every success for the sake of that setting alone, at 10 µs a task.
            state.successful_requests = _Nobody()
        state.revoked.update(orders.get("revoked") or ())
        worker = WorkController(
            app=self._app,
            hostname=self._options["hostname"],
            pool_cls=ChildPool,
            consumer_cls=consumer_class(self._app.conf.worker_consumer, self._on_loop, self._before_task),
            concurrency=1,
            queues=self._options["queues"],
            loglevel=self._options["loglevel"],
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            ready_callback=self._on_ready,
        )
        worker.start()
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=worker.exitcode or 0)
        return int(worker.exitcode or 0)

    def _on_ready(self, consumer: Any) -> None:
        """Connected for the first time, before the first claim."""
        self._consumer = consumer
        if self._orders.get("estate"):
            heir.settle(consumer, self._orders["estate"], self._slot)
        for command in self._orders.get("replay") or ():
            self._command(command)
        consumer.timer.call_repeatedly(REPORT, self._report)
        self._slot.state = READY
        if self._slot.orders != GO_ON:
            self._retire()

    def _on_loop(self, hub: Any) -> None:
        hub.add_reader(self._lines.fileno(), self._listen)
        if self._consumer is not None and self._slot.orders != GO_ON:
            hub.call_soon(self._retire)

    def _look_up(self, *_: Any) -> None:
        """The supervisor's signal to a child without a task: it may be waiting for a broker that is away."""
        consumer = self._consumer
        # The loop is the last of Celery's steps. Each of those before may be the one that waits for a connection.
        loops = consumer is not None and consumer.blueprint.started == len(consumer.steps)
        if self._slot.orders != GO_ON and not self._slot.serial and not loops:
            state.should_stop = os.EX_OK

    def _listen(self) -> None:
        self._obey()
        if self._slot.orders != GO_ON:
            self._retire()

    def _before_task(self) -> None:
        """Do what was commanded while the last task ran: it may call off the next one."""
        if self._slot.told != self._told:
            self._obey()

    def _obey(self) -> None:
        self._told = self._slot.told
        for command in self._lines.receive():
            self._command(command)

    def _command(self, command: dict[str, Any]) -> None:
        """Do what a remote control command asks of each process."""
        name = command.get("method", "")
        if not name:
            return
        panel = AttributeDict(app=self._app, hostname=self._consumer.hostname, consumer=self._consumer, tset=pass1)
        try:
            Panel.data[name](panel, **command.get("arguments") or {})
        except Exception:
            logger.exception("Remote control command %s", name)

    def _report(self) -> None:
        self._lines.flush()
        if state.all_total_count[0] != self._reported:
            self._reported = state.all_total_count[0]
            self._lines.send({"total": dict(state.total_count)})

    def _retire(self) -> None:
        """Take no more messages, and end once nothing waits here."""
        consumer = self._consumer
        if consumer.task_consumer is not None:
            try:
                consumer.task_consumer.cancel()
            except consumer.connection_errors as error:
                logger.info("The broker was not told that this process takes no more: %s", error)
        self._leave()

    def _leave(self) -> None:
        if holding.count():
            self._consumer.timer.call_after(HELD, self._leave)
            return
        self._report()
        state.should_stop = os.EX_OK
