"""Upkeep: the nightly import of the price list that a supplier leaves as a file."""

from __future__ import annotations

import csv
import json
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from orchestrator import PermanentError, Retries, task
from tasks.files import appearing, media_path

COLUMNS = ("sku", "price", "currency")


@task(retries=Retries(on=(FileNotFoundError,), limit=3, base=0.5, cap=60.0))
def import_price_list(source: str = "incoming/prices.csv", catalogue: str = "catalogue.json") -> dict[str, Any]:
    """Turn the supplier's list into our catalogue, all of it or nothing.

    A list that is late is waited for, within the retries. A list with a mistake goes
    to the inbox at once: someone mends the file and redrives.

    Args:
        source: CSV file with the columns sku, price and currency, under ``MEDIA_ROOT``.
        catalogue: JSON file to write, under ``MEDIA_ROOT``.

    Raises:
        FileNotFoundError: there is no list yet.
        PermanentError: the list has a mistake; names the line.
    """
    prices = _read(media_path(source), source)
    with appearing(media_path(catalogue)) as draft:
        draft.write_text(json.dumps(prices, indent=1, sort_keys=True))
    return {"source": source, "prices": len(prices)}


def _read(path: Path, name: str) -> dict[str, dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        # Named as the caller named it: where the media directory lies is nobody's business.
        raise FileNotFoundError(f"The price list {name!r} has not arrived.") from None
    except UnicodeDecodeError as error:
        raise PermanentError(f"{name}: not UTF-8 at byte {error.start}.") from None
    reader = csv.DictReader(text.splitlines())
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise PermanentError(f"{name}, line 1: the heading lacks {', '.join(missing)}.")
    prices: dict[str, dict[str, str]] = {}
    for row in reader:
        # Under no heading lies what a comma too many pushed out, as in a price of 12,50.
        if None in row:
            raise PermanentError(f"{name}, line {reader.line_num}: more values than the heading has columns.")
        sku = (row["sku"] or "").strip()
        if not sku or sku in prices:
            raise PermanentError(f"{name}, line {reader.line_num}: sku {sku!r} is {'doubled' if sku else 'empty'}.")
        prices[sku] = {"price": str(_price(row["price"], name, reader.line_num)), "currency": (row["currency"] or "")}
    if not prices:
        raise PermanentError(f"{name}: the list is empty, and an empty catalogue would sell nothing.")
    return prices


def _price(text: str | None, name: str, line: int) -> Decimal:
    try:
        price = Decimal(text or "")
    except InvalidOperation:
        raise PermanentError(f"{name}, line {line}: the price {text!r} is no number.") from None
    if not price.is_finite() or price < 0:
        raise PermanentError(f"{name}, line {line}: the price {text!r} cannot be charged.")
    return price
