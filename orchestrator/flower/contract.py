"""What our pages rely on in the pinned Flower, checked at every start.

Nearly every file of Flower differs between its minor releases. Where one of these
no longer holds, :mod:`orchestrator.flower.app` runs stock Flower behind the guard.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tornado.web import RequestHandler

#: pattern -> class of every handler in Flower 2.2.
HANDLERS: dict[str, str] = {
    "/": "WorkersView",
    "/workers": "WorkersView",
    "/worker/(.+)": "WorkerView",
    "/task/(.+)": "TaskView",
    "/tasks": "TasksView",
    "/tasks/datatable": "TasksDataTable",
    "/broker": "BrokerView",
    "/api/workers": "ListWorkers",
    "/api/worker/shutdown/(.+)": "WorkerShutDown",
    "/api/worker/pool/restart/(.+)": "WorkerPoolRestart",
    "/api/worker/pool/grow/(.+)": "WorkerPoolGrow",
    "/api/worker/pool/shrink/(.+)": "WorkerPoolShrink",
    "/api/worker/pool/autoscale/(.+)": "WorkerPoolAutoscale",
    "/api/worker/queue/add-consumer/(.+)": "WorkerQueueAddConsumer",
    "/api/worker/queue/cancel-consumer/(.+)": "WorkerQueueCancelConsumer",
    "/api/tasks": "ListTasks",
    "/api/task/types": "ListTaskTypes",
    "/api/queues/length": "GetQueueLengths",
    "/api/task/info/(.*)": "TaskInfo",
    "/api/task/apply/(.+)": "TaskApply",
    "/api/task/async-apply/(.+)": "TaskAsyncApply",
    "/api/task/send-task/(.+)": "TaskSend",
    "/api/task/result/(.+)": "TaskResult",
    "/api/task/abort/(.+)": "TaskAbort",
    "/api/task/timeout/(.+)": "TaskTimout",
    "/api/task/rate-limit/(.+)": "TaskRateLimit",
    "/api/task/revoke/(.+)": "TaskRevoke",
    "/metrics": "Metrics",
    "/healthcheck": "Healthcheck",
    "/static/(.*)": "StaticFileHandler",
    "/login/?": "LoginHandler",
    "/logout": "LogoutHandler",
    ".*": "NotFoundErrorHandler",
}

#: template -> marks that must stand in it exactly once: blocks that our pages fill, places where we add.
SECOND_NAVIGATION = '<ul class="app-nav app-nav-secondary navbar-nav ms-lg-auto">'
TASK_ACTIONS = '<div class="detail-actions">'
TEMPLATES: dict[str, tuple[str, ...]] = {
    "base.html": (
        "{% block title %}",
        "{% block navbar %}",
        "{% block container %}",
        "{% block extra_scripts %}",
        'id="url_prefix"',
        "url_prefix or ''",
    ),
    "navbar.html": (SECOND_NAVIGATION, "handler.application.options.auth"),
    "task.html": (TASK_ACTIONS, "{% if not read_only %}"),
    "404.html": ("{{ message }}",),
    "workers.html": (),
    "worker.html": (),
    "tasks.html": (),
    "broker.html": (),
    "error.html": (),
}


def differences(handlers: Iterable[Any], template_path: str) -> list[str]:
    """Return what is not as our pages expect it, as plain sentences; empty if all holds."""
    return [*_handler_differences(handlers), *_template_differences(Path(template_path))]


def pattern_and_class(rule: Any) -> tuple[str, Any]:
    """Return the pattern, without its end mark, and the handler class of one entry of a handler list."""
    if isinstance(rule, tuple | list):
        return str(rule[0]).removesuffix("$"), rule[1]
    return str(rule.regex.pattern).removesuffix("$"), rule.handler_class


def _handler_differences(handlers: Iterable[Any]) -> list[str]:
    found: dict[str, Any] = {}
    for rule in handlers:
        try:
            pattern, handler = pattern_and_class(rule)
        except (AttributeError, IndexError, TypeError):
            return [f"the handler list holds {rule!r}"]
        found[pattern] = handler
    sentences = [f"no handler for {pattern}" for pattern in HANDLERS if pattern not in found]
    for pattern, handler in found.items():
        name = getattr(handler, "__name__", repr(handler))
        if pattern not in HANDLERS:
            sentences.append(f"a new handler {name} for {pattern}")
        elif HANDLERS[pattern] != name:
            sentences.append(f"handler {name} for {pattern}, not {HANDLERS[pattern]}")
        elif not (isinstance(handler, type) and issubclass(handler, RequestHandler)):
            sentences.append(f"handler {name} for {pattern} is no Tornado handler")
    return sentences


def _template_differences(folder: Path) -> list[str]:
    sentences = []
    for name, marks in TEMPLATES.items():
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except OSError:
            sentences.append(f"no template {name}")
            continue
        counts = ((mark, text.count(mark)) for mark in marks)
        sentences += [f"template {name} holds {mark!r} {times} times, not once" for mark, times in counts if times != 1]
    return sentences
