"""Settings of the reference project: the one place that reads the environment.

An existing Django project does not import this; see ``docs/adopt.md``.
"""

import json
from collections.abc import Callable
from logging import getLevelNamesMapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import environ

from orchestrator.contracts.errors import ConfigurationError
from orchestrator.launch.paths import embedded_broker_url, stored_secret

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()


def checked(name: str, read: Callable[[str], Any], default: str, wanted: str) -> Any:
    """Return what a variable says, as ``read`` understands it; an empty one says nothing.

    Raises:
        ConfigurationError: it cannot be understood.
    """
    try:
        return read(env.str(name, default="") or default)
    except (ValueError, LookupError, OSError) as error:
        raise ConfigurationError(f"{name} cannot be used: {error.args[0]}. Give {wanted}.") from error


def database(url: str) -> dict[str, Any]:
    """Return Django's settings for a database URL."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in env.DB_SCHEMES:
        # The scheme only: the rest may hold a password.
        raise ValueError(f"it begins with {scheme!r}, which is no database" if separator else "it is no URL")
    given = dict(env.db_url_config(url))
    for name in ("CONN_HEALTH_CHECKS", "DISABLE_SERVER_SIDE_CURSORS"):
        if name in given:
            given[name] = _spoken(name, given[name], bool)
    if "pool" in given.get("OPTIONS", {}):
        given["OPTIONS"]["pool"] = _spoken("pool", given["OPTIONS"]["pool"], (bool, dict))
    return given


def _spoken(name: str, value: Any, kind: Any) -> Any:
    """Return what a part of a URL means, as JSON; django-environ leaves some of them texts, which are always true."""
    try:
        found = json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except (AttributeError, ValueError):
        found = value
    if not isinstance(found, kind):
        also = "" if kind is bool else ', nor as {"max_size": 4}'
        raise ValueError(f"{name}={value} in it is neither true nor false{also}")
    return found


# --- Django -----------------------------------------------------------------

DATA_DIR = Path(env.str("ORCHESTRATOR_DATA_DIR", default=str(BASE_DIR / ".orchestrator"))).absolute()
SECRET_KEY = env.str("ORCHESTRATOR_SECRET_KEY", default="") or stored_secret(DATA_DIR, "secret_key")
DEBUG = env.bool("ORCHESTRATOR_DEBUG", default=False)
ALLOWED_HOSTS = env.list("ORCHESTRATOR_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("ORCHESTRATOR_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "django_celery_results",
    "orchestrator",
    "orchestrator.audit",
    "orchestrator.deadletters",
    "orchestrator.outbox",
    "orchestrator.runs",
    "orchestrator.schedules",
    "orchestrator.idempotency",
    "orchestrator.limits",
    "orchestrator.guards",
    "orchestrator.console",
    "orchestrator.flower",
    "tasks",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "orchestrator.urls"
WSGI_APPLICATION = "orchestrator.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": checked(
        "DATABASE_URL",
        database,
        f"sqlite:///{DATA_DIR / 'db.sqlite3'}",
        "one such as postgres://user:password@host:5432/name, or leave it out to use SQLite",
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # WAL lets readers go on while one process writes; IMMEDIATE makes a writer wait
    # for its turn at BEGIN, where SQLite honours the timeout, instead of failing later.
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    )
else:
    DATABASES["default"].setdefault("CONN_HEALTH_CHECKS", True)
# Workers and web processes keep their connections, and look whether they still work before they use them again.
DATABASES["default"].setdefault("CONN_MAX_AGE", 600)
if DATABASES["default"].get("OPTIONS", {}).get("pool"):
    # The pool keeps them.
    DATABASES["default"]["CONN_MAX_AGE"] = 0
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = checked("ORCHESTRATOR_TIME_ZONE", ZoneInfo, "UTC", "a name such as Europe/Berlin").key
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
# Serve the admin's files straight from the packages: no collectstatic before the first start.
WHITENOISE_USE_FINDERS = True
MEDIA_ROOT = DATA_DIR / "media"
LOGIN_URL = "admin:login"
SESSION_COOKIE_HTTPONLY = True
# Where people come by https only, a session never travels in the clear.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = bool(CSRF_TRUSTED_ORIGINS) and all(
    origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS
)
EMAIL_HOST = env.str("ORCHESTRATOR_EMAIL_HOST", default="127.0.0.1")
EMAIL_PORT = checked("ORCHESTRATOR_EMAIL_PORT", int, "1025", "a port number")
EMAIL_TIMEOUT = 10
#: Where the payment tasks charge: an HTTP service that honours the header Idempotency-Key.
PAYMENT_URL = env.str("ORCHESTRATOR_PAYMENT_URL", default="http://127.0.0.1:8099/charges")
LOG_LEVEL = checked(
    "ORCHESTRATOR_LOG_LEVEL", lambda name: getLevelNamesMapping()[name.upper()], "INFO", "DEBUG, INFO, WARNING or ERROR"
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
}

# --- Celery -----------------------------------------------------------------

CELERY_BROKER_URL = (
    env.str("ORCHESTRATOR_BROKER_URL", default="") or env.str("REDIS_URL", default="") or embedded_broker_url(DATA_DIR)
)
if master := env.str("ORCHESTRATOR_BROKER_MASTER", default=""):
    CELERY_BROKER_TRANSPORT_OPTIONS = {"master_name": master}
if CELERY_BROKER_URL.startswith(("amqp://", "amqps://", "pyamqp://")):
    # Queues that survive the loss of a node, and exchanges through which RabbitMQ holds back what is due later.
    CELERY_TASK_DEFAULT_QUEUE_TYPE = CELERY_TASK_CREATE_MISSING_QUEUE_TYPE = "quorum"
    CELERY_TASK_DEFAULT_EXCHANGE_TYPE = CELERY_TASK_CREATE_MISSING_QUEUE_EXCHANGE_TYPE = "topic"
CELERY_TIMEZONE = TIME_ZONE
# One module a field of business; an app with a plain ``tasks.py`` is found without being named here.
CELERY_IMPORTS = ("tasks.email", "tasks.reports", "tasks.media", "tasks.maintenance", "tasks.payments")

# --- Platform ---------------------------------------------------------------

ORCHESTRATOR = {
    # What a transaction publishes is sent if, and only if, it commits; a broker that is away delays it.
    "OUTBOX": True,
    "OUTBOX_FALLBACK": True,
    "STATE_URL": env.str("ORCHESTRATOR_STATE_URL", default=""),
    "TRANSPORT": env.str("ORCHESTRATOR_TRANSPORT", default="orchestrator"),
    "FLOWER_URL": env.str("ORCHESTRATOR_FLOWER_URL", default=""),
    "METRICS_TOKEN": env.str("ORCHESTRATOR_METRICS_TOKEN", default=""),
}
