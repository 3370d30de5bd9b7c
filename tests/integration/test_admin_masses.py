"""Pages of results, groups, schedules and attempts on tables that are too large to be counted."""

from __future__ import annotations

import pytest
from django.test import Client

from orchestrator.audit.browsing import COUNT_CAP
from tests.support import masses
from tests.support.inbox import person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker"), pytest.mark.database]

MOST_QUERIES = 12


def test_no_page_counts_a_table_or_asks_for_each_row() -> None:
    """Every page takes at most twelve queries, whatever is in the table, and counts up to a bound only."""
    masses.fill(COUNT_CAP + 500, COUNT_CAP + 500)
    client = Client()
    client.force_login(person("admin"))
    for name, path in masses.pages().items():
        statements, _ = masses.look(client, path)
        assert len(statements) <= MOST_QUERIES, (name, statements)
        full = [each for each in statements if masses.counts_all(each) and "django_celery" in each]
        assert not full, (name, full)
