"""``tasks.reports``: a PDF that holds what it should."""

from __future__ import annotations

import base64
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from orchestrator import PermanentError
from orchestrator.demo.reports import pdf_pages
from tasks.reports import usage_report


@pytest.fixture(autouse=True)
def media(settings: Any, tmp_path: Path) -> Path:
    settings.MEDIA_ROOT = tmp_path
    return tmp_path


def words(path: Path) -> str:
    """Return the text drawn on all pages, decoded from the content streams."""
    text = ""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", path.read_bytes(), re.DOTALL):
        drawn = zlib.decompress(base64.a85decode(b"<~" + stream.strip(), adobe=True)).decode("latin-1")
        text += " ".join(re.findall(r"\((.*?)\) Tj", drawn)) + "\n"
    return text


def test_rows_are_in_the_table_and_in_the_chart(media: Path) -> None:
    report = usage_report(title="Sales of March & April", rows=[["North & South", 12], ["East", 1234]])
    path = media / report["path"]
    assert pdf_pages(path) == 1
    assert report["bytes"] == path.stat().st_size
    assert path.name.startswith("sales-of-march-april-")
    said = words(path)
    assert "Sales of March & April" in said
    assert said.count("North & South") == 2
    assert "1,234" in said
    assert "1,246 in 2 lines" in said
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_long_tables_go_on_over_pages(media: Path) -> None:
    report = usage_report(rows=[[f"line {number}", number] for number in range(200)])
    path = media / report["path"]
    assert pdf_pages(path) > 3
    assert "line 199" in words(path)


@pytest.mark.django_db
def test_without_rows_finished_tasks_are_counted(media: Path) -> None:
    from django_celery_results.models import TaskResult

    for number in range(3):
        TaskResult.objects.create(task_id=f"id-{number}", task_name="shop.ship", status="SUCCESS")
    report = usage_report()
    assert report["rows"] == 1
    assert "shop.ship" in words(media / report["path"])


@pytest.mark.django_db
def test_a_quiet_day_gives_a_report_too(media: Path) -> None:
    assert pdf_pages(media / usage_report()["path"]) == 1


@pytest.mark.parametrize("rows", [[["a"]], [["a", "many"]], ["ab"], [7]])
def test_rows_that_cannot_be_drawn_are_named(rows: Any) -> None:
    with pytest.raises(PermanentError, match="Row 1 of the report is"):
        usage_report(rows=rows)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reportlab.lib", None)
    with pytest.raises(PermanentError, match=r"extra 'pdf', as in pip install 'django-orchestrator\[pdf\]'"):
        usage_report(rows=[["a", 1]])


@pytest.mark.parametrize("cut", [10, -10])
def test_half_a_pdf_is_told_from_a_whole_one(media: Path, cut: int) -> None:
    whole = media / usage_report(rows=[["a", 1]])["path"]
    half = media / "half.pdf"
    half.write_bytes(whole.read_bytes()[:cut])
    assert pdf_pages(whole) == 1
    assert pdf_pages(half) == 0
