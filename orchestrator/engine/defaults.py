"""Celery settings that the platform starts from; a project's own settings win."""

from __future__ import annotations

from typing import Any

#: Seconds. Long enough for honest work, short enough that a hung task is seen the same day.
SOFT_TIME_LIMIT = 30 * 60
HARD_TIME_LIMIT = SOFT_TIME_LIMIT + 60

DEFAULTS: dict[str, Any] = {
    # Nothing disappears: a message is acknowledged when its outcome is safe.
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "worker_prefetch_multiplier": 1,
    "task_soft_time_limit": SOFT_TIME_LIMIT,
    "task_time_limit": HARD_TIME_LIMIT,
    # JSON only: a pickle from the broker would be code from the broker.
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "event_serializer": "json",
    # Flower and every other observer live on these.
    "worker_send_task_events": True,
    "task_send_sent_event": True,
    "task_track_started": True,
    "result_extended": True,
    "result_backend": "orchestrator.runs.backend.ResultBackend",
    # Retention of results is ours (``manage.py relay`` prunes), not a beat entry's.
    "result_expires": None,
    "broker_connection_retry_on_startup": True,
    # A frozen broker must not freeze a web request for ever. The read timeout is far above the second
    # for which a worker's blocking read waits. Our transport bounds producers more tightly.
    "broker_transport_options": {
        "socket_connect_timeout": 2,
        "socket_timeout": 5,
        "socket_keepalive": True,
        "max_retries": 0,
        # RabbitMQ: a message counts as sent when the broker has said that it has it. Redis always does.
        "confirm_publish": True,
    },
    "broker_pool_acquire_timeout": 1.0,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_consumer": "orchestrator.engine.consumer:OrchestratedConsumer",
    "beat_scheduler": "django_celery_beat.schedulers:DatabaseScheduler",
}
