"""What a worker tells about its settings over the broker: Celery's own, without a secret.

Celery answers ``inspect conf`` and ``inspect report`` with everything that the settings
object holds. In a Django project that is all of Django's settings, the broker's password
in ``CELERY_BROKER_URL`` among them, for whoever may look at Flower's page of a worker.

Importing this module replaces both answers.
"""

from __future__ import annotations

import re
from typing import Any

from celery.app.defaults import DEFAULTS
from celery.app.utils import filter_hidden_settings
from celery.utils.saferepr import saferepr
from celery.utils.serialization import jsonify, strtobool
from celery.worker.control import inspect_command

#: User and password of a URL, wherever it stands in a text.
CREDENTIALS = re.compile(r"(?<=://)[^\s/@'\"]*:[^\s/@'\"]+@")
MASK = "********@"


def configuration(app: Any, *, with_defaults: bool = False) -> dict[str, Any]:
    """Return the settings that are Celery's, JSON-able and without secrets.

    Args:
        with_defaults: also those that have Celery's default value.
    """
    given = {key: app.conf[key] for key in DEFAULTS}
    chosen = {key: value for key, value in given.items() if with_defaults or value != DEFAULTS[key]}
    # Celery would make an address out of a URL that is not set.
    hidden = filter_hidden_settings({key: value for key, value in chosen.items() if value is not None})
    table: dict[str, Any] = jsonify({**chosen, **hidden}, unknown_type_filter=saferepr)
    return {key: _without_credentials(value) for key, value in sorted(table.items())}


def _without_credentials(value: Any) -> Any:
    if isinstance(value, str):
        return CREDENTIALS.sub(MASK, value)
    if isinstance(value, dict):
        return {key: _without_credentials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_credentials(item) for item in value]
    return value


@inspect_command(  # type: ignore[untyped-decorator]
    alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", strtobool)]
)
def conf(state: Any, with_defaults: bool = False, **_: Any) -> dict[str, Any]:
    """List configuration."""
    return configuration(state.app, with_defaults=with_defaults)


@inspect_command()  # type: ignore[untyped-decorator]
def report(state: Any, **_: Any) -> dict[str, str]:
    """Information about Celery installation for bug reports."""
    # Celery's report ends with all settings; ours stand there instead.
    software, _, _ = state.app.bugreport().strip().partition("\n\n")
    settings = "\n".join(f"{key}: {value!r}" for key, value in configuration(state.app).items())
    return {"ok": f"\n{CREDENTIALS.sub(MASK, software)}\n\n{settings}\n"}
