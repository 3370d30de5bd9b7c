"""Settings of the test run and of every subprocess it starts.

pytest-django reads settings before any ``conftest.py`` is imported, so the world is
made here. A subprocess inherits it.
"""

from importlib.util import find_spec

from tests.support import environment

environment.prepare()

from orchestrator.settings import *  # noqa: E402, F403
from orchestrator.settings import DATA_DIR, DATABASES, ORCHESTRATOR, ROOT_URLCONF, STATIC_ROOT, env  # noqa: E402

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A file, never memory: worker processes share it with the test.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR.parent / "test.sqlite3")}

# Where WhiteNoise looks; it warns if there is none.
STATIC_ROOT.mkdir(parents=True, exist_ok=True)

# Hashing is slow on purpose; here only its slowness would be tested.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
# More task modules for one worker: env={"ORCHESTRATOR_TEST_IMPORTS": "tests.integration.some_tasks"}.
CELERY_IMPORTS = [
    name
    for name in ("tests.support.zoo", "tests.support.charges", *env.list("ORCHESTRATOR_TEST_IMPORTS", default=[]))
    if find_spec(name)
]
# Pages that only a chaos scenario has.
ROOT_URLCONF = env.str("ORCHESTRATOR_TEST_URLCONF", default=ROOT_URLCONF)
if authority := env.str("ORCHESTRATOR_TEST_AUTHORITY", default=""):
    CELERY_BROKER_USE_SSL = {"ssl_cert_reqs": "required", "ssl_ca_certs": authority}
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "master_name": env.str("ORCHESTRATOR_BROKER_MASTER"),
        "sentinel_kwargs": {"ssl": True, **CELERY_BROKER_USE_SSL},
    }
if wait := env.float("ORCHESTRATOR_TEST_LOST_WAIT", default=0):
    # Seconds for which prefork waits for the answer of a process that is gone.
    CELERY_WORKER_LOST_WAIT = wait
if lease := env.float("ORCHESTRATOR_TEST_LEASE", default=0):
    ORCHESTRATOR["LEASE_SECONDS"] = lease
if resume := env.float("ORCHESTRATOR_TEST_REDRIVE_RESUME", default=0):
    ORCHESTRATOR["REDRIVE_RESUME_SECONDS"] = resume
if grace := env.float("ORCHESTRATOR_TEST_OUTBOX_GRACE", default=0):
    ORCHESTRATOR["OUTBOX_GRACE_SECONDS"] = grace
if fail := env.str("ORCHESTRATOR_TEST_LIMITS_FAIL", default=""):
    ORCHESTRATOR["LIMITS_FAIL"] = fail
if deliveries := env.int("ORCHESTRATOR_TEST_DELIVERIES", default=0):
    ORCHESTRATOR["MAX_DELIVERIES"] = deliveries
if env.str("ORCHESTRATOR_TEST_LOW_PRIORITY_SHARE", default=""):
    ORCHESTRATOR["LOW_PRIORITY_SHARE"] = env.float("ORCHESTRATOR_TEST_LOW_PRIORITY_SHARE")
if (waiting := env.int("ORCHESTRATOR_TEST_RESULTS_WAITING", default=-1)) >= 0:
    ORCHESTRATOR["RESULTS_WAITING"] = waiting
