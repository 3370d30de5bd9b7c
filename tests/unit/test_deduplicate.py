"""What may be declared about duplicates and breakers, and what is refused at import."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Breaker, Deduplicate, OrchestratedTask, errors, task
from orchestrator.contracts.breaker import check_breaker
from orchestrator.contracts.deduplication import Claim, Mode
from orchestrator.contracts.keys import bound


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["until_start"], {}, r"'until_start' for Deduplicate\(mode\), did you mean 'until_started'\?"),
        (["latest"], {"key": ""}, r"key=''\): give a template"),
        (["latest"], {"key": "all"}, r"'all'\) names no argument, so all calls would count as one"),
        (["latest"], {"key": "{0}"}, r"\{0\} must name an argument"),
        (["latest"], {"key": 3}, r"key=3\): give a template"),
        (["window"], {}, r"Deduplicate\(window\) needs window="),
        (["debounce"], {}, r"Deduplicate\(debounce\) needs window="),
        (["throttle"], {}, r"Deduplicate\(throttle\) needs window="),
        (["until_started"], {"window": 3}, r"window=3\): only debounce, throttle, window take\(s\) window="),
        (["throttle"], {"window": 3, "max_wait": 4}, r"max_wait=4\): only debounce take\(s\) max_wait="),
        (["window"], {"window": 3, "ttl": 4}, r"ttl=4\): only .* take\(s\) ttl="),
        (["window"], {"window": 0}, r"window=0\): give seconds above 0"),
        (["window"], {"window": True}, r"window=True\): give seconds above 0"),
        (["window"], {"window": "1h"}, r"window='1h'\): give seconds above 0"),
        (["latest"], {"ttl": timedelta(0)}, r"ttl=datetime.timedelta\(0\)\)"),
    ],
)
def test_an_impossible_rule_is_refused(arguments: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        Deduplicate(*arguments, **options)


def test_a_key_that_the_task_cannot_fill_is_refused_at_import() -> None:
    with pytest.raises(errors.UnknownOption, match=r"'acount' for the deduplication key .*, did you mean 'account'\?"):

        @task(name="t.report", deduplication=Deduplicate("latest", key="{acount}"))
        def report(account: int) -> None: ...

    with pytest.raises(errors.InvalidOption, match="names 'card', which is sensitive"):

        @task(name="t.charge", sensitive=("card",), deduplication=Deduplicate("latest", key="{card}"))
        def charge(card: str) -> None: ...


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"deduplication": "latest"}, r"deduplication='latest' must be a Deduplicate\("),
        ({"breaker": "stripe"}, r"breaker='stripe' must be a Breaker\("),
        ({"dedupe": "latest"}, r"Unknown option 'dedupe'"),
    ],
)
def test_what_is_no_option_value_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):

        @task(name="t.report", **option)
        def report(account: int) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, r"Breaker\(''\): give a name"),
        ({"name": "x" * 101}, r"give a name of 1 to 100"),
        ({"error_rate": 0}, r"error_rate=0\): give a share above 0"),
        ({"error_rate": 1.5}, r"error_rate=1.5\)"),
        ({"minimum": 0}, r"minimum=0\): give a whole number"),
        ({"minimum": 2.5}, r"minimum=2.5\)"),
        ({"window": -1}, r"window=-1\): give seconds above 0"),
        ({"cooldown": "30s"}, r"cooldown='30s'\)"),
        ({"on": ()}, r"on=\(\)\): name exception classes"),
        ({"on": ("OSError",)}, r"name exception classes"),
    ],
)
def test_an_impossible_breaker_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidOption, match=message):
        Breaker(**{"name": "far", **options})


def test_spans_are_seconds_or_a_timedelta() -> None:
    assert Deduplicate("window", window=timedelta(minutes=1)).window == 60
    assert Breaker("far", window=timedelta(minutes=1), on=OSError).spans == (60, 30)


def _behind(breaker: Breaker, name: str) -> Any:
    @task(name=name, breaker=breaker)
    def body() -> None:
        """A body."""

    return body


def test_one_name_is_one_breaker() -> None:
    """Tasks share it, so their numbers must agree; which exceptions count is each task's own."""
    _behind(Breaker("one name", minimum=3, window=60), "shop.first")
    _behind(Breaker("one name", minimum=3, window=timedelta(minutes=1), on=OSError), "shop.second")
    for number in ({"minimum": 4}, {"error_rate": 0.9}, {"window": 61}, {"cooldown": 1}):
        with pytest.raises(errors.InvalidOption, match=r"shop\.third.*shop\.first.*breakers with one name are") as no:
            _behind(Breaker(**{"name": "one name", "minimum": 3, **number}), "shop.third")
        ((option, value),) = number.items()
        assert f"{option}={float(value) if option in ('window', 'cooldown') else value}" in str(no.value)

    class Guarded(OrchestratedTask):
        abstract = True
        breaker = Breaker("one name", minimum=3)

    assert Guarded.breaker.minimum == 3
    with pytest.raises(errors.InvalidOption, match=r"Other.*shop\.first"):

        class Other(OrchestratedTask):
            abstract = True
            breaker = Breaker("one name", minimum=30)


def test_a_task_that_is_declared_anew_may_change_its_breaker() -> None:
    """As a reload of its module does."""
    for minimum in (5, 6):
        check_breaker("shop.reloaded", Breaker("reloaded", minimum=minimum))


def _body(x: int, y: int = 2, **more: Any) -> None:
    """A body."""


def claim(rule: Deduplicate, *args: Any, **kwargs: Any) -> Claim:
    arguments, named = bound(_body, args, kwargs)
    assert arguments is not None
    return rule.claim("t.t", arguments, named)


def test_calls_are_compared_as_the_function_receives_them() -> None:
    same = Deduplicate("latest")
    assert claim(same, 1) == claim(same, x=1) == claim(same, 1, 2) != claim(same, 1, 3)
    assert claim(Deduplicate("latest", key="r-{x}-{z}"), 1, z=5).key == "r-1-5"
    assert claim(Deduplicate("latest", key=lambda x, **_: f"c{x}"), 1).key == "c1"
    with pytest.raises(errors.InvalidOption, match=r"got x=\[1\]"):
        claim(Deduplicate("latest", key="{x}"), [1])


@given(key=st.text(min_size=1), mode=st.sampled_from(Mode), window=st.floats(0, 1e6), ttl=st.floats(1, 1e6))
def test_a_claim_travels_in_a_header(key: str, mode: Mode, window: float, ttl: float) -> None:
    made = Claim("t.t", key, mode, window, ttl)
    assert Claim.of("t.t", {"v": 1, "dedup": made.to_header()}) == made


@pytest.mark.parametrize("field", [None, 1, {}, {"key": "a"}, {"key": "a", "mode": "newer", "spans": [0, 1, 0]}])
def test_what_this_release_does_not_know_is_no_claim(field: Any) -> None:
    """A message of a later release runs, as if it claimed nothing."""
    assert Claim.of("t.t", {"dedup": field}) is None
