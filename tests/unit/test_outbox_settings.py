"""The outbox's settings, in words where they cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import conf
from orchestrator.contracts.errors import ConfigurationError


@pytest.mark.parametrize("where", [True, False, "default", ["default"]])
def test_what_can_work_is_taken(where: Any) -> None:
    assert conf.parse({"OUTBOX": where}).outbox == (tuple(where) if isinstance(where, list) else where)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"OUTBOX": 1}, r"ORCHESTRATOR\['OUTBOX'\] = 1: give True or False"),
        ({"OUTBOX": None}, "= None: give True or False"),
        ({"OUTBOX": []}, r"= \(\): give True or False"),
        ({"OUTBOX": ""}, "= '': give True or False"),
        ({"OUTBOX": ["default", 3]}, "give True or False"),
        ({"OUTBOX": "defalt"}, "did you mean 'default'"),
        ({"OUTBOX_FALLBACK": "yes", "OUTBOX": True}, r"OUTBOX_FALLBACK'\] = 'yes': give True or False"),
        ({"OUTBOX_FALLBACK": True}, "there is no outbox"),
        ({"OUTBOX_GRACE_SECONDS": 0}, "a number of seconds above 0"),
        ({"OUTBX": True}, "did you mean 'OUTBOX'"),
    ],
)
def test_what_cannot_work_is_said(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        conf.parse(given)
