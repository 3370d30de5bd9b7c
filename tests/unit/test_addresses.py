"""A broker's address says all that the stores need, whatever of it stands in Celery's settings."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from orchestrator.celery import OrchestratorApp
from orchestrator.contracts.addresses import as_redis
from orchestrator.contracts.errors import InvalidOption
from orchestrator.stores.redis.client import client, location

TLS = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.crt"}


@pytest.mark.parametrize(
    ("url", "options", "tls", "wanted"),
    [
        ("redis://:pw@h:1/2", {}, None, "redis://:pw@h:1/2"),
        ("redis+socket:///run/redis", {}, None, "unix:///run/redis"),
        ("redis://h/0", {}, TLS, "rediss://h/0?ssl_cert_reqs=required&ssl_ca_certs=%2Fca.crt"),
        ("rediss://h/0?ssl_cert_reqs=none", {}, True, "rediss://h/0?ssl_cert_reqs=none"),
        (
            "sentinel://a:1;sentinel://b:2/0",
            {"master_name": "m"},
            False,
            "sentinel://a:1;sentinel://b:2/0?master_name=m",
        ),
        (
            "sentinel://a:1/0",
            {"master_name": "m", "sentinel_kwargs": {"password": "s", "ssl": True, "ssl_cert_reqs": ssl.CERT_NONE}},
            {"ssl_cert_reqs": "required"},
            "sentinel://a:1/0?master_name=m&sentinel_password=s&sentinel_ssl=True&sentinel_ssl_cert_reqs=none"
            "&ssl_cert_reqs=required",
        ),
        ("sentinel://a:1/0?master_name=own", {"master_name": "m"}, None, "sentinel://a:1/0?master_name=own"),
    ],
)
def test_what_settings_say_goes_into_the_url(url: str, options: dict[str, Any], tls: Any, wanted: str) -> None:
    """Unless the URL says it itself."""
    assert as_redis(url, options, tls) == wanted


def test_sentinels_of_an_unnamed_primary_are_refused() -> None:
    """With the setting that is missing, and without the password."""
    with pytest.raises(InvalidOption, match="master_name") as caught:
        client("sentinel://:secret@a:1;sentinel://b:2/0", 1.0)
    assert "secret" not in str(caught.value)
    assert location("sentinel://:secret@a:1;sentinel://b:2/0") == "sentinel://a:1"


def test_a_sentinel_url_is_read_whole() -> None:
    """Whose user and password is whose, and which database."""
    url = "sentinel://u:p%40@a:1;sentinel://b/3?master_name=m&sentinel_password=s&ssl_ca_certs=/ca.crt"
    url += "&sentinel_ssl=true&sentinel_ssl_ca_certs=/other.crt"
    pool: Any = client(url, 1.0).connection_pool
    (first, second) = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert (first["host"], first["port"], first["password"]) == ("a", 1, "s")
    assert (second["host"], second["port"]) == ("b", 26379)
    assert second["ssl_ca_certs"] == "/other.crt"
    asked = pool.connection_kwargs
    assert (pool.service_name, asked["username"], asked["password"], asked["db"]) == ("m", "u", "p@", 3)
    assert asked["ssl_ca_certs"] == "/ca.crt"


def test_a_projects_own_settings_win() -> None:
    """And what it says about its broker is added to what we say."""
    app = OrchestratorApp("shop", set_as_current=False)
    app.config_from_object(
        {"task_time_limit": 7, "broker_transport_options": {"master_name": "m", "socket_timeout": 9}}
    )
    assert app.conf.task_time_limit == 7
    assert app.conf.task_acks_late is True, "ours, where it says nothing"
    options = app.conf.broker_transport_options
    assert (options["master_name"], options["socket_timeout"], options["max_retries"]) == ("m", 9, 0)
