"""Sensitive values are in no text that leaves the payload, whatever they are and wherever they stand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.contracts.message import Attempt, Publication
from orchestrator.contracts.redaction import REDACTED_NAMES
from orchestrator.policies.redaction import MASK, SHORTEST, Redaction, cover

secrets = st.text(min_size=SHORTEST, max_size=40)
plain = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["a", "bc"])


class Task:
    """As much of a task as the policy looks at."""

    name = "shop.pay"
    sensitive = ("card",)

    @staticmethod
    def run(order: int, card: str, *, note: str = "", password: str = "") -> None:
        """Take something sensitive by declaration and something by name."""


def redaction() -> Redaction:
    """Return the policy with the names of the default settings."""
    return Redaction(REDACTED_NAMES)


def findable(secret: str) -> None:
    """Leave out secrets that are part of the texts around them anyway."""
    assume(secret not in MASK and MASK not in secret and secret.strip("'\"\\, ()[]{}:") == secret)
    assume(secret not in "order card note password {'order': 1, 'card': , 'password': , 'note': 'n', 'deep': [{'token'")


@given(secret=secrets, by=st.sampled_from(["position", "name", "password", "nested", "deep"]))
def test_argument_texts_never_hold_a_secret(secret: str, by: str) -> None:
    """By position, by keyword, by a name that is sensitive everywhere, and inside other arguments."""
    findable(secret)
    args: list[Any] = [1]
    kwargs: dict[str, Any] = {"note": "n"}
    if by == "position":
        args.append(secret)
    elif by in ("name", "password"):
        kwargs["card" if by == "name" else "password"] = secret
    else:
        kwargs["note"] = {"token": secret} if by == "nested" else {"deep": [{"token": {"x": secret}}]}
    before = copy.deepcopy((args, kwargs))
    args_text, kwargs_text = redaction().reprs(Task, args, kwargs)
    for text in (args_text, kwargs_text):
        assert secret not in text and repr(secret)[1:-1] not in text
    assert MASK in args_text + kwargs_text
    assert (args, kwargs) == before, "the payload keeps what the texts hide"


@given(secret=secrets, form=st.sampled_from(["{}", "card {} refused", "{!r}", "{}{}"]))
def test_an_error_leaves_the_body_without_the_secret(secret: str, form: str) -> None:
    """In its arguments, attributes, notes, causes and contexts; its class and identity stay."""
    findable(secret)
    attempt = Attempt("a", Task, "t", (1, secret), {}, 0, {})
    told = form.format(secret, secret)
    inner = KeyError(told)
    raised = ValueError(told, {"charged": [told]})
    raised.detail = told  # type: ignore[attr-defined]
    raised.add_note(told)

    def body(_: Attempt) -> None:
        try:
            raise inner
        except KeyError as error:
            raise raised from error

    with pytest.raises(ValueError) as caught:
        redaction().on_execute(attempt, body)
    assert caught.value is raised
    told_in = [*map(str, raised.args), raised.detail, *raised.__notes__, str(inner)]  # type: ignore[attr-defined]
    assert all(secret not in text and repr(secret)[1:-1] not in text for text in told_in)
    assert all(MASK in text for text in told_in)


@given(args=st.lists(plain, max_size=3), note=plain)
def test_harmless_arguments_keep_celerys_own_texts(args: list[Any], note: Any) -> None:
    """A publication without anything sensitive is not touched: most tasks pay for one look."""

    class Harmless:
        name = "shop.count"

        @staticmethod
        def run(*values: Any, note: Any = None) -> None: ...

    publication = Publication("shop.count", "t", args, {"note": note}, {}, Harmless, False, {})
    assert redaction().on_publish(publication, lambda sent: sent.options) == {}


def test_short_values_are_masked_as_arguments_but_not_hunted_for_in_texts() -> None:
    """Else a sensitive ``1`` would blacken every digit one of an error."""
    assert redaction().reprs(Task, (1, "123"), {})[0] == f"(1, '{MASK}')"
    assert redaction().secrets(Task, (1, "123"), {}) == []


def test_the_longest_secret_is_covered_first() -> None:
    """Covering a part first would leave the rest of the whole standing."""
    found = redaction().secrets(Task, (1, ["abcd", "abcdefgh"]), {})
    assert found == ["abcdefgh", "abcd"]
    assert cover("abcdefgh abcd", found) == f"{MASK} {MASK}"


def test_a_task_that_is_not_known_here_is_still_covered_by_names() -> None:
    """``send_task`` by name: no signature to look at."""
    publication = Publication("far.away", "t", [], {"password": "hunter2hunter2", "x": 1}, {}, None, False, {})
    options = redaction().on_publish(publication, lambda sent: sent.options)
    assert "hunter2" not in options["kwargsrepr"]
    assert "'x': 1" in options["kwargsrepr"]


@pytest.mark.parametrize("secret", ["line\nbreak", 'it\'s "quoted"', "back\\slash", "bell\x07bell", "naïve✓text"])
def test_a_secret_inside_a_structured_error_argument_is_found_in_its_escaped_form(secret: str) -> None:
    """Containers show their strings escaped, and an error may already quote the value once more."""
    raised = ValueError({"charged": [secret]}, [f"told {secret!r}"])

    def body(_: Attempt) -> None:
        raise raised

    with pytest.raises(ValueError):
        redaction().on_execute(Attempt("a", Task, "t", (1, secret), {}, 0, {}), body)
    assert str(raised.args).count(MASK) == 2
    assert not {"break", "quoted", "slash", "bell", "text"} & set(str(raised.args).replace(MASK, "").split("'"))
