"""What a limit may be, and what is refused when it is declared, with the value and the way out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import Concurrency, OrchestratedTask, RateLimit, RateLimited, errors, task
from orchestrator.contracts.rates import Rate

_names = (f"limit-{number}" for number in itertools.count())


def test_rates_are_read() -> None:
    read = {text: Rate.parse(text, "x") for text in ("100/m", "10/s", "5/10s", "1/h", "1000/d", "3/2h")}
    assert {text: (rate.count, rate.period) for text, rate in read.items()} == {
        "100/m": (100, 60),
        "10/s": (10, 1),
        "5/10s": (5, 10),
        "1/h": (1, 3600),
        "1000/d": (1000, 86400),
        "3/2h": (3, 7200),
    }


@pytest.mark.parametrize(
    "rate", ["100/fortnight", "100", "", "a/s", "-1/s", "0/s", "1.5/s", "1/0s", "1/s/s", None, 5, True]
)
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(errors.InvalidOption, match=r"RateLimit\('x'\): .* is no rate.*such as \"100/m\"") as refused:
        RateLimit("x", rate)
    assert repr(rate) in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RateLimit("", "1/s"), r"RateLimit\(''\): give a name"),
        (lambda: RateLimit("a|b", "1/s"), r"holds no '\|'"),
        (lambda: RateLimit("x", "5/s", weight=-1), r"weight=-1: give a whole number"),
        (lambda: RateLimit("x", "5/s", weight=0), r"weight=0"),
        (lambda: RateLimit("x", "5/s", weight=1.5), r"weight=1.5"),  # type: ignore[arg-type]
        (lambda: RateLimit("x", "5/s", weight=6), r"weight 6 never fits, the limit lets 5 through"),
        (lambda: RateLimit("x", "5/s", algorithm="gcra", weight=2), r"weight 2 never fits, the limit lets 1 through"),
        (lambda: RateLimit("x", "5/s", burst=3), r'burst=3 needs algorithm="gcra"'),
        (lambda: RateLimit("x", "5/s", algorithm="gcra", burst=0), r"burst=0"),
        (lambda: RateLimit("x", "5/s", algorithm="leaky"), r"Unknown option 'leaky' for algorithm"),
        (lambda: RateLimit("x", {"premium": "5/s"}), r'needs a "default"'),
        (lambda: RateLimit("x", {"default": "5/w"}), r"RateLimit\('x'\), tier 'default': '5/w' is no rate"),
        (lambda: RateLimit("x", "5/s", tier="{plan}"), r"chooses among rates"),
        (lambda: RateLimit("x", "5/s", key=["a"]), r"key=\['a'\] must be a template"),  # type: ignore[arg-type]
        (lambda: RateLimit("x", "5/s", key="{a.b}"), r"\{a.b\} must name an argument"),
        (lambda: RateLimit("x", "5/s", key="{a"), r"does not parse"),
        (lambda: Concurrency("x", 0), r"Concurrency\('x'\): limit=0: give a whole number"),
        (lambda: Concurrency("x", True), r"limit=True"),
        (lambda: Concurrency("{0}", 1), r"\{0\} must name an argument"),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        make()


def test_a_call_is_charged_by_its_arguments() -> None:
    limit = RateLimit("api", "100/m", key="{account[id]}", weight=lambda pages, **_: pages)
    charge = limit.charge("t", {"account": {"id": 7}, "pages": 3}, 0)
    assert (charge.id, charge.units, charge.slot) == ("api|7", 3, False)
    assert Concurrency("tenant:{tenant}", 2).charge("t", {"tenant": "acme"}, 0).id == "tenant:acme"
    assert RateLimit("api", "1/s", key=lambda account, **_: f"a{account}").charge("t", {"account": 1}, 0).id == "api|a1"


@pytest.mark.parametrize("weight", [0, -1, 101, "2", None])
def test_a_weight_that_a_call_gives_is_checked(weight: Any) -> None:
    limit = RateLimit("api", "100/m", weight=lambda **_: weight)
    with pytest.raises(errors.InvalidOption, match=r"Task 't': weight of RateLimit\('api'\)"):
        limit.charge("t", {}, 0)


def test_tiers_by_priority_template_and_callable() -> None:
    rates = {"premium": "1000/h", "default": "100/h", "free": "1/h"}
    by_priority, by_plan = RateLimit("a", rates), RateLimit("a", rates, tier="{plan}")
    assert [by_priority.charge("t", {}, priority).id for priority in (0, 5, 6, 9)] == [
        "a|default",
        "a|default",
        "a|premium",
        "a|premium",
    ]
    assert by_plan.charge("t", {"plan": "free"}, 9).id == "a|free"
    assert RateLimit("a", rates, tier=lambda plan: plan).charge("t", {"plan": "free"}, 0).spec.startswith("s 1 ")
    with pytest.raises(
        errors.UnknownOption, match=r"'fre' for tier of RateLimit\('a'\) of task 't', did you mean 'free'"
    ):
        by_plan.charge("t", {"plan": "fre"}, 0)
    assert by_plan.names == {"a|premium": "1000/h", "a|default": "100/h", "a|free": "1/h"}


# --- on tasks ------------------------------------------------------------------------------


def declare(**options: Any) -> Any:
    def body(account: str, pages: int = 1) -> None:
        """A body."""

    body.__name__ = next(_names).replace("-", "_")
    return task(**options)(body)


def test_a_key_that_the_task_cannot_fill_is_refused_at_import() -> None:
    with pytest.raises(errors.UnknownOption, match=r"'acount'.*did you mean 'account'"):
        declare(limits=[RateLimit(next(_names), "1/s", key="{acount}")])
    with pytest.raises(errors.UnknownOption, match=r"'tenant' for Concurrency\('tenant:\{tenant\}'\) of task"):
        declare(limits=[Concurrency("tenant:{tenant}", 1)])
    with pytest.raises(errors.InvalidOption, match="which is sensitive"):
        declare(limits=[RateLimit(next(_names), "1/s", key="{account}")], sensitive=("account",))
    with pytest.raises(errors.UnknownOption, match="did you mean 'limits'"):
        declare(limit=[])


@pytest.mark.parametrize("limits", ["100/m", RateLimit("x", "1/s"), ["100/m"], None, {"a": 1}])
def test_what_is_no_list_of_limits_is_refused(limits: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="must be a list of limits, such as"):
        declare(limits=limits)


def test_one_name_is_one_limit() -> None:
    """Tasks share it, so they must agree; keys and weights are each task's own."""
    name = next(_names)
    declare(limits=[RateLimit(name, "10/s", key="{account}")])
    declare(limits=[RateLimit(name, "10/s", weight=2)])
    with pytest.raises(errors.InvalidOption, match="limits with one name are shared, so declare them alike"):
        declare(limits=[RateLimit(name, "20/s")])
    with pytest.raises(errors.InvalidOption, match="shared"):
        declare(limits=[Concurrency(name, 1)])
    with pytest.raises(errors.InvalidOption, match=f"limits name {name!r} twice"):
        declare(limits=[RateLimit(name, "10/s"), RateLimit(name, "10/s", weight=2)])


def test_a_base_class_passes_its_limits_on() -> None:
    class Paid(OrchestratedTask):
        abstract = True
        limits = (RateLimit("limit-base", "10/s", key="{account}"),)
        fairness_key = "{account}"

    assert Paid.limits[0].name == "limit-base"
    with pytest.raises(errors.UnknownOption, match="'account'"):

        @task(base=Paid)
        def body(other: str) -> None:
            """A body without the argument."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fairness_key": "tenant"}, "names no argument"),
        ({"fairness_key": "{tenant}"}, "'tenant' for fairness_key="),
        ({"fairness_key": 5}, "fairness_key=5 must be a template"),
        ({"fairness_key": "{account}", "fairness_weight": 0}, "fairness_weight=0 must be a whole number"),
        ({"fairness_weight": 2}, "without a fairness_key does nothing"),
        ({"fairness_keys": "{account}"}, "did you mean 'fairness_key'"),
    ],
)
def test_fairness_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        declare(**options)


def test_retry_after_must_be_a_time() -> None:
    assert RateLimited(3).retry_after == 3
    with pytest.raises(ValueError, match="negative"):
        RateLimited(-1)
