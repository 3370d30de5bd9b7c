"""The delays of ``Retries``: full jitter under an exponential bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contracts.options import Retries

seconds = st.floats(0, 1e6)


@given(
    retry=st.integers(1, 10_000),
    base=seconds,
    factor=st.floats(0, 1e3),
    cap=seconds,
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_lies_between_zero_and_the_bound(
    retry: int, base: float, factor: float, cap: float, draw: float
) -> None:
    """Whatever the numbers, also far out where a power would overflow."""
    retries = Retries(on=(OSError,), base=base, factor=factor, cap=cap)
    bound = Retries(on=(OSError,), base=base, factor=factor, cap=cap, jitter=False).delay(retry)
    assert 0 <= retries.delay(retry, lambda: draw) <= bound <= cap


@given(retry=st.integers(1, 60))
def test_the_bound_doubles_until_the_cap(retry: int) -> None:
    """1, 2, 4, … with the defaults."""
    assert Retries(on=(OSError,), jitter=False).delay(retry) == min(600.0, 2.0 ** (retry - 1))


@given(draw=st.floats(0, 1, exclude_max=True))
def test_full_jitter_spreads_over_the_whole_bound(draw: float) -> None:
    """Evenly from zero: the delay is the drawn part of the bound."""
    assert Retries(on=(OSError,), base=8.0).delay(2, lambda: draw) == 16.0 * draw


def test_one_class_may_be_given_without_a_tuple() -> None:
    """``on=OSError`` means ``on=(OSError,)``."""
    assert Retries(on=OSError).on == (OSError,)  # type: ignore[arg-type]
