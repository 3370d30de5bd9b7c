"""``tasks.maintenance``: all of a price list or nothing, and what is said about a bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import PermanentError
from tasks.maintenance import import_price_list

GOOD = "sku,price,currency\nA-1,19.90,EUR\nA-2,0,EUR\n"


@pytest.fixture(autouse=True)
def media(settings: Any, tmp_path: Path) -> Path:
    settings.MEDIA_ROOT = tmp_path
    return tmp_path


def test_a_good_list_becomes_the_catalogue(media: Path) -> None:
    (media / "prices.csv").write_text("\ufeff" + GOOD)
    assert import_price_list("prices.csv") == {"source": "prices.csv", "prices": 2}
    assert json.loads((media / "catalogue.json").read_text())["A-1"] == {"price": "19.90", "currency": "EUR"}
    assert sorted(path.name for path in media.iterdir()) == ["catalogue.json", "prices.csv"]


def test_a_list_that_is_late_is_worth_a_retry(media: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'prices\.csv' has not arrived") as raised:
        import_price_list("prices.csv")
    assert str(media) not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the heading lacks sku, price, currency"),
        ("sku,price\nA,1\n", "line 1: the heading lacks currency"),
        ("sku,price,currency\n", "the list is empty"),
        (GOOD + "A-1,3,EUR\n", "line 4: sku 'A-1' is doubled"),
        (GOOD + ",3,EUR\n", "line 4: sku '' is empty"),
        (GOOD + "A-3,cheap,EUR\n", "line 4: the price 'cheap' is no number"),
        (GOOD + "A-3,12,50,EUR\n", "line 4: more values than the heading has columns"),
        (GOOD + "A-3\n", "line 4: the price None is no number"),
        (GOOD + "A-3,-2,EUR\n", "line 4: the price '-2' cannot be charged"),
        (GOOD + "A-3,NaN,EUR\n", "line 4: the price 'NaN' cannot be charged"),
    ],
)
def test_a_mistake_is_named_and_the_old_catalogue_stays(media: Path, text: str, said: str) -> None:
    (media / "prices.csv").write_text(text)
    (media / "catalogue.json").write_text("{}")
    with pytest.raises(PermanentError) as raised:
        import_price_list("prices.csv")
    assert said in str(raised.value)
    assert (media / "catalogue.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../prices.csv", "/etc/hostname", "a/../../b"])
def test_names_cannot_lead_out_of_the_media_directory(name: str) -> None:
    with pytest.raises(PermanentError, match="leads out of MEDIA_ROOT"):
        import_price_list(name)
