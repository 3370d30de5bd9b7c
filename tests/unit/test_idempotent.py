"""What an idempotency key may be, and what is refused when it is declared."""

from __future__ import annotations

import inspect
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Idempotent, OrchestratedTask, errors, fencing, task
from orchestrator.contracts.fencing import fenced
from orchestrator.contracts.idempotency import checked_key
from orchestrator.contracts.keys import fingerprint


def _body(order_id: int, amount: int = 1, *, card: str = "") -> None:
    """A body."""


PARAMETERS = list(inspect.signature(_body).parameters.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": ""}, r"Idempotent\(key=''\): give a template"),
        ({"key": 3}, r"Idempotent\(key=3\): give a template"),
        ({"key": "payment"}, r"'payment'\) names no argument, so all calls would count as one"),
        ({"key": "payment-{}"}, r"\{\} must name an argument"),
        ({"key": "payment-{0}"}, r"\{0\} must name an argument"),
        ({"key": "payment-{order.id}"}, r"\{order.id\} must name an argument"),
        ({"key": "payment-{order"}, r"does not parse"),
        ({"key": "{a}", "ttl": 0}, r"ttl=0\): give seconds above 0"),
        ({"key": "{a}", "ttl": -1}, r"ttl=-1\)"),
        ({"key": "{a}", "ttl": "1h"}, r"ttl='1h'\)"),
        ({"key": "{a}", "ttl": True}, r"ttl=True\)"),
        ({"key": "{a}", "ttl": float("nan")}, r"ttl=nan\)"),
        ({"key": "{a}", "ttl": timedelta(0)}, r"ttl=datetime.timedelta\(0\)\)"),
        ({"key": "{a}", "transactional": "yes"}, r"transactional='yes'\): give True or False"),
    ],
)
def test_an_impossible_value_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidOption, match=message):
        Idempotent(**options)


def test_spans_are_seconds_or_a_timedelta() -> None:
    assert Idempotent(key="{a}").seconds == 24 * 3600
    assert Idempotent(key="{a}", ttl=timedelta(hours=1)).seconds == Idempotent(key="{a}", ttl=3600).seconds == 3600


def test_a_template_that_names_a_missing_argument_is_refused_at_import() -> None:
    with pytest.raises(errors.UnknownOption, match=r"'order' for the idempotency key .*, did you mean 'order_id'\?"):

        @task(name="t.pay", idempotency=Idempotent(key="payment-{order}"))
        def pay(order_id: int) -> None: ...


def test_a_base_class_is_checked_with_each_function() -> None:
    class Payment(OrchestratedTask):
        abstract = True
        idempotency = Idempotent(key="payment-{order_id}")

    @task(name="t.good", base=Payment)
    def good(order_id: int) -> None: ...

    with pytest.raises(errors.UnknownOption, match=r"'order_id' .* of task 't.bad', did you mean 'orderid'\?"):

        @task(name="t.bad", base=Payment)
        def bad(orderid: int) -> None: ...


def test_a_class_with_a_body_of_its_own_is_checked() -> None:
    with pytest.raises(errors.UnknownOption, match="'order'"):

        class Payment(OrchestratedTask):
            name = "t.class"
            idempotency = Idempotent(key="{order}")

            def run(self, order_id: int) -> None: ...


def test_a_sensitive_argument_is_no_key() -> None:
    with pytest.raises(errors.InvalidOption, match=r"names 'card', which is sensitive, and keys are shown to people"):
        Idempotent(key="{card}").check("t.pay", PARAMETERS, sensitive=("card",))


def test_what_is_no_option_value_is_refused() -> None:
    with pytest.raises(errors.InvalidOption, match=r"idempotency='payment' must be an Idempotent\(key="):

        @task(name="t.pay", idempotency="payment")
        def pay(order_id: int) -> None: ...

    with pytest.raises(errors.UnknownOption, match=r"'idempotent' for task 't.pay', did you mean 'idempotency'\?"):

        @task(name="t.pay", idempotent=Idempotent(key="{order_id}"))
        def pay_again(order_id: int) -> None: ...


@pytest.mark.parametrize(
    ("key", "arguments", "made"),
    [
        ("payment-{order_id}", {"order_id": 7}, "payment-7"),
        ("{order[id]}/{day:%Y-%m}", {"order": {"id": "x"}, "day": date(2026, 11, 24)}, "x/2026-11"),
        ("{lines[0]}", {"lines": ["a", "b"]}, "a"),
        ("{price}", {"price": Decimal("1.50")}, "1.50"),
        ("{id}", {"id": UUID(int=1)}, str(UUID(int=1))),
        (lambda order_id, **_: f"p{order_id}", {"order_id": 7, "amount": 1}, "p7"),
    ],
)
def test_keys_are_made_of_plain_arguments(key: Any, arguments: dict[str, Any], made: str) -> None:
    assert Idempotent(key=key).key_for("t.pay", arguments) == made


@pytest.mark.parametrize("value", [None, "", [], {"id": 1}, ("x",), object()])
def test_what_names_nothing_is_no_part_of_a_key(value: Any) -> None:
    with pytest.raises(errors.InvalidOption, match=r"'p-\{order\}' got order="):
        Idempotent(key="p-{order}").key_for("t.pay", {"order": value})


def test_a_template_that_cannot_be_filled_says_so() -> None:
    with pytest.raises(errors.InvalidOption, match=r"'\{order\[id\]\}' cannot be filled \(KeyError: 'id'\)"):
        Idempotent(key="{order[id]}").key_for("t.pay", {"order": {}})


@given(key=st.text(max_size=300))
def test_keys_are_short_and_printable_or_refused(key: str) -> None:
    good = bool(key.strip()) and len(key) <= 255 and key.isprintable()
    try:
        assert checked_key("t.pay", key) == key
        assert good
    except errors.InvalidOption:
        assert not good


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=3)


@given(one=arguments, other=arguments)
def test_fingerprints_are_equal_where_arguments_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Whatever the order of names; a boolean is not a number, as in JSON."""
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    if repr(sorted(one.items())) != repr(sorted(other.items())) and one != other:
        assert fingerprint(one) != fingerprint(other)


def test_the_fencing_number_is_there_while_something_is_held() -> None:
    assert fencing() is None
    with fenced(7):
        assert fencing() == 7
        with fenced(9):
            assert fencing() == 9
        assert fencing() == 7
    assert fencing() is None
