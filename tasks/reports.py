"""Reports as PDF: a table and a chart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db.models import Count
from django.utils import timezone
from django.utils.text import slugify

from orchestrator import PermanentError, progress, task
from tasks.files import appearing, media_name, media_path

Row = tuple[str, int]


@task(bind=True)
def usage_report(
    self: Any,
    title: str = "Tasks of the last 24 hours",
    hours: int = 24,
    directory: str = "reports",
    rows: Sequence[Sequence[Any]] | None = None,
) -> dict[str, Any]:
    """Write a PDF with one line and one bar per row.

    Run again under the same task id it replaces its own file.

    Args:
        hours: How far back to count, if no rows are given.
        directory: Where to put it, under ``MEDIA_ROOT``.
        rows: ``[label, number]`` pairs; by default the tasks that ended, by name.

    Raises:
        PermanentError: the rows cannot be drawn, or reportlab is missing.
    """
    data = _checked(rows) if rows is not None else _finished_tasks(hours)
    progress(1, 3, "counted")
    document = _render(title, data)
    progress(2, 3, "drawn")
    written_by = self.request.id or timezone.now().strftime("%Y%m%dT%H%M%S%f")
    path = media_path(directory) / f"{slugify(title) or 'report'}-{written_by}.pdf"
    with appearing(path) as draft:
        draft.write_bytes(document)
    progress(3, 3, "written")
    return {"path": media_name(path), "rows": len(data), "bytes": len(document)}


def _checked(rows: Sequence[Sequence[Any]]) -> list[Row]:
    checked: list[Row] = []
    for number, row in enumerate(rows, 1):
        try:
            label, value = row
            checked.append((str(label), int(value)))
        except (TypeError, ValueError):
            raise PermanentError(f"Row {number} of the report is {row!r}; give [label, number].") from None
    return checked


def _finished_tasks(hours: int) -> list[Row]:
    """Count the results of the last ``hours`` by task name, the most frequent first."""
    from django_celery_results.models import TaskResult

    recent = TaskResult.objects.filter(date_done__gte=timezone.now() - timedelta(hours=hours))
    counted = recent.values_list("task_name").annotate(number=Count("pk")).order_by("-number", "task_name")
    return [(name or "(no name)", number) for name, number in counted[:40]]


def _render(title: str, rows: Sequence[Row]) -> bytes:
    """Lay the report out on A4 pages; long tables go on with their heading on the next page."""
    try:
        from reportlab.lib import colors
        from reportlab.lib.pagesizes import A4
        from reportlab.lib.styles import getSampleStyleSheet
        from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table
    except ImportError:
        raise PermanentError(
            "PDF reports need reportlab: install the extra 'pdf', as in pip install 'django-orchestrator[pdf]'."
        ) from None
    from xml.sax.saxutils import escape

    styles = getSampleStyleSheet()
    table = Table(
        [["", "Number"], *[[Paragraph(escape(label), styles["BodyText"]), f"{value:,}"] for label, value in rows]],
        colWidths=[360, 90],
        repeatRows=1,
        style=[
            ("LINEBELOW", (0, 0), (-1, 0), 1, colors.black),
            ("LINEBELOW", (0, 1), (-1, -1), 0.25, colors.lightgrey),
            ("ALIGN", (1, 0), (1, -1), "RIGHT"),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ],
    )
    total = sum(value for _, value in rows)
    written = timezone.localtime().strftime("%Y-%m-%d %H:%M %Z")
    story = [
        Paragraph(escape(title), styles["Title"]),
        Paragraph(f"{total:,} in {len(rows)} lines, written {written}", styles["BodyText"]),
        Spacer(1, 18),
        *([_chart(rows[:12]), Spacer(1, 18)] if rows else []),
        table,
    ]
    output = io.BytesIO()
    SimpleDocTemplate(output, pagesize=A4, title=title, author="Orchestrator").build(story)
    return output.getvalue()


def _chart(rows: Sequence[Row]) -> Any:
    """Draw a bar a row."""
    from reportlab.graphics.charts.barcharts import HorizontalBarChart
    from reportlab.graphics.shapes import Drawing
    from reportlab.lib import colors

    height = 22 * len(rows) + 30
    drawing = Drawing(450, height)
    chart = HorizontalBarChart()
    chart.x, chart.y, chart.width, chart.height = 190, 20, 250, height - 30
    # Bars grow upwards from the axis; reversed, the first row comes out on top.
    chart.data = [[value for _, value in reversed(rows)]]
    chart.categoryAxis.categoryNames = [_shortened(label) for label, _ in reversed(rows)]
    # Beside the bars even when some are negative.
    chart.categoryAxis.joinAxisMode = "left"
    chart.categoryAxis.labels.fontSize = 8
    chart.valueAxis.valueMin = min(0, *[value for _, value in rows])
    chart.valueAxis.valueMax = max(1, *[value for _, value in rows])
    chart.valueAxis.labels.fontSize = 8
    chart.bars[0].fillColor = colors.HexColor("#417690")
    drawing.add(chart)
    return drawing


def _shortened(label: str, width: int = 34) -> str:
    """Keep the end, which is what tells dotted names apart."""
    return label if len(label) <= width else f"…{label[1 - width :]}"
