"""Stamps reach every task of a canvas, its retries and its results, and tasks can be called off by them."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import Signature, StampingVisitor

from tests.integration.canvas.conftest import Stack, values
from tests.integration.canvas.tasks import stamped, total
from tests.support.wait import eventually

WAIT = 30


class Monitored(StampingVisitor):  # type: ignore[misc]  # Celery is untyped
    """One stamp for the whole canvas, one for each task's name."""

    def __init__(self, key: str) -> None:
        self.key = key

    def on_signature(self, actual_sig: Signature, **headers: Any) -> dict[str, Any]:
        """Stamp one task."""
        return {"canvas": self.key, "label": actual_sig.name.rpartition(".")[2], "stamped_headers": ["canvas", "label"]}


@pytest.mark.parametrize("shape", ["task", "chain", "group", "chord"])
def test_stamps_arrive(stack: Stack, key: str, shape: str) -> None:
    made = {
        "task": lambda: stamped.s([1], key),
        "chain": lambda: chain(stamped.s([1], key), stamped.s(key), stamped.s(key)),
        "group": lambda: group(stamped.s([1], key), stamped.s([1], key), stamped.s([1], key)),
        "chord": lambda: chord([stamped.s(1, key), stamped.s(1, key)], chain(total.s(f"{key}:body"), stamped.s(key))),
    }[shape]()
    made.stamp(Monitored(key))
    made.delay().get(timeout=WAIT)
    arrived = values(key)
    assert len(arrived) == (1 if shape == "task" else 3)
    for one in arrived:
        assert set(one["headers"]) >= {"canvas", "label"}  # type: ignore[index]
        assert one["stamps"]["canvas"] in (key, [key])  # type: ignore[index]
        assert one["stamps"]["label"] in ("stamped", ["stamped"])  # type: ignore[index]


def test_stamps_of_one_call(stack: Stack, key: str) -> None:
    """Without a visitor, as options."""
    made = stamped.s(1, key)
    made.stamp(customer="acme", batch="7")
    assert made.delay().get(timeout=WAIT) == 1
    (arrived,) = values(key)
    assert (arrived["stamps"]["customer"], arrived["stamps"]["batch"]) in (("acme", "7"), (["acme"], ["7"]))  # type: ignore[index]


def test_callbacks_are_stamped_along(stack: Stack, key: str) -> None:
    made = stamped.s(1, key)
    made.link(stamped.s(f"{key}:link"))
    made.stamp(Monitored(key))
    made.delay().get(timeout=WAIT)
    eventually(lambda: values(f"{key}:link"))
    assert values(f"{key}:link")[0]["stamps"]["canvas"] in (key, [key])  # type: ignore[index]
