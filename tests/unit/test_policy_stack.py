"""The order of policies is the order of the list, for every hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Outcome, Verdict
from orchestrator.contracts.policy import Policy, PolicyStack

ATTEMPT = Attempt("a", None, "t", (), {}, 0, {})


class Noting(Policy):
    """Notes its visits; ``wants`` says whether it applies."""

    def __init__(self, name: int, wants: bool, seen: list[str]) -> None:
        self.name, self.wants, self.seen = name, wants, seen

    def on_publish(self, publication: Any, proceed: Callable[[Any], Any]) -> Any:
        self.seen.append(f"in {self.name}")
        try:
            return proceed(publication)
        finally:
            self.seen.append(f"out {self.name}")

    on_execute = on_publish

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        self.seen.append(f"settle {self.name}")

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        return self.wants


def nested(names: list[int]) -> list[str]:
    """What an onion of these layers notes."""
    return [f"in {n}" for n in names] + ["core"] + [f"out {n}" for n in reversed(names)]


@given(wants=st.lists(st.booleans(), max_size=6), fails=st.booleans())
def test_policies_nest_as_listed(wants: list[bool], fails: bool) -> None:
    """First listed is outermost, also when the core raises; those that do not apply are left out of executing."""
    seen: list[str] = []
    stack = PolicyStack([Noting(number, want, seen) for number, want in enumerate(wants)])

    def core(subject: Any) -> Any:
        seen.append("core")
        if fails:
            raise KeyError(subject)
        return subject

    def call(chain: Callable[[Any], Any]) -> None:
        try:
            assert chain("subject") == "subject"
        except KeyError as error:
            assert fails and error.args == ("subject",)

    call(stack.publisher(core))
    assert seen == nested(list(range(len(wants))))
    seen.clear()
    chain = stack.executor(None, {}, core)
    applying = [number for number, want in enumerate(wants) if want]
    if applying:
        assert chain is not None
        call(chain)
        assert seen == nested(applying)
    else:
        # No layer, no chain: a task that no policy cares for pays nothing.
        assert chain is None


@given(count=st.integers(0, 6))
def test_settling_goes_from_the_inside_out(count: int) -> None:
    """What was taken last is released first."""
    seen: list[str] = []
    PolicyStack([Noting(number, True, seen) for number in range(count)]).settle(ATTEMPT, Outcome(Verdict.SUCCEEDED))
    assert seen == [f"settle {number}" for number in reversed(range(count))]


def test_a_policy_without_hooks_is_in_no_chain() -> None:
    """A hook that nobody overrides costs no call."""
    stack = PolicyStack([Policy(), Policy()])

    def core(subject: Any) -> Any:
        return subject

    assert stack.publisher(core) is core
    assert stack.executor(None, {}, core) is None
