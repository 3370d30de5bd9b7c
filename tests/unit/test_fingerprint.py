"""Equal failures share a fingerprint, different ones do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deadletters.fingerprint import fingerprint, normalise, own_frame

TRACEBACK = """Traceback (most recent call last):
  File "/srv/venv/lib/python3.11/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
  File "/srv/shop/orchestrator/engine/task.py", line 40, in __call__
    return run(attempt)
  File "/srv/shop/orders/tasks.py", line 17, in ship
    parcel = pack(order)
  File "/srv/shop/orders/parcels.py", line 88, in pack
    requests.post(url)
  File "/srv/venv/lib/python3.11/site-packages/requests/api.py", line 59, in request
    return session.request(method=method, url=url, **kwargs)
  File "/usr/lib/python3.11/socket.py", line 20, in connect
    raise ConnectionRefusedError
ConnectionRefusedError: refused
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 17 not found", "order 18 not found"),
        ("took 1.5 s", "took 12,000.25 s"),
        ("no 0d252af1-f0c9-4283-87a9-2f0800ec3c75", "no 965ec181-7725-4ed0-9ddc-df241a3ce547"),
        ("no f2e3031ba28d4d87bd41ab8f9da7688b", "no a7e2ddbcfdd8475e81c5663fc0bd35c2"),
        ("<Order object at 0x7f3a2c>", "<Order object at 0x10ab>"),
        ("commit 3f2a9c1be0 is gone", "commit 77ab0123ff is gone"),
        ("key 'alpha' is missing", "key 'beta \\'x\\' gamma' is missing"),
        ('key "alpha" is missing', 'key "beta" is missing'),
        ("bounced: one@shop.example", "bounced: someone.else@other.example"),
        ("GET https://a.example/x?y=1 failed", "GET http://b.example/z failed"),
        ("10.0.0.1:6379 refused", "10.9.8.7:1 refused"),
        ("two\n  lines", "two lines"),
    ],
)
def test_what_differs_by_occurrence_is_folded(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order not found", "order not paid"),
        ("the facade fell", "the decade fell"),
        ("can't ship, won't ship", "can't pay, won't pay"),
        ("key 'a' is missing", "key 'a' is void"),
    ],
)
def test_words_are_kept(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_the_innermost_own_frame_counts() -> None:
    assert own_frame(TRACEBACK) == "orders/parcels.py:pack"


def test_of_a_chain_the_exception_that_ended_the_task_counts() -> None:
    second = TRACEBACK.replace("parcels.py", "fallback.py").replace("in pack", "in again")
    chained = f"{TRACEBACK}\nDuring handling of the above exception, another exception occurred:\n\n{second}"
    assert own_frame(chained) == "orders/fallback.py:again"


def test_a_traceback_without_own_code_has_no_frame() -> None:
    foreign = "\n".join(line for line in TRACEBACK.splitlines() if "/srv/shop/orders/" not in line)
    assert own_frame(foreign) == own_frame("") == own_frame("no traceback at all") == ""


def test_line_numbers_and_base_directories_do_not_count() -> None:
    moved = TRACEBACK.replace("line 88", "line 91").replace("/srv/shop", "/app")
    assert fingerprint("t", "E", "m", TRACEBACK) == fingerprint("t", "E", "m", moved)


def test_windows_paths_are_read() -> None:
    assert own_frame(TRACEBACK.replace("/", "\\")) == "orders/parcels.py:pack"


@pytest.mark.parametrize("changed", range(4))
def test_every_part_counts(changed: int) -> None:
    parts = ["task", "Error", "message", TRACEBACK]
    other = list(parts)
    other[changed] = TRACEBACK.replace("in pack", "in wrap") if changed == 3 else "other"
    assert fingerprint(*parts) != fingerprint(*other)


@given(st.text(), st.text(), st.text(), st.text())
def test_any_text_has_a_fingerprint(task: str, kind: str, message: str, traceback: str) -> None:
    digits = fingerprint(task, kind, message, traceback)
    assert len(digits) == 32
    assert int(digits, 16) >= 0
    assert digits == fingerprint(task, kind, message, traceback)


# A number of 32 digits is as good as the hex form of a UUID.
@given(st.integers(min_value=0, max_value=10**20), st.integers(min_value=0, max_value=10**20))
def test_any_two_numbers_fold_alike(one: int, other: int) -> None:
    assert normalise(f"row {one} of 7") == normalise(f"row {other} of 9")


def test_a_huge_message_is_cheap() -> None:
    assert len(normalise("'" * 10 + "a1 " * 1_000_000)) <= 500
