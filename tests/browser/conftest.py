"""A real browser. Where there is none the tests are skipped visibly; in CI a skip is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.inbox import PASSWORD

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    # Containers often have a tiny /dev/shm, and a page then dies half-way.
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def executable() -> str | None:
    """Return the installed browser."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, started once."""
    path = executable()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH (on Debian: apt-get install chromium)")
    playwright_api = pytest.importorskip("playwright.sync_api")
    with pytest.MonkeyPatch.context() as patch:
        # Playwright's synchronous API keeps an event loop in this thread, which Django takes for async code.
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        with playwright_api.sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
            yield chromium
            chromium.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """``new_page(width=1280)``: a page in a context of its own; errors in its scripts fail the test."""
    contexts: list[Any] = []
    errors: list[str] = []

    def _new(width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield _new
    for context in contexts:
        context.close()
    assert not errors, f"scripts of the page failed: {errors}"


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    """One page, 1280 pixels wide."""
    return new_page()


@pytest.fixture
def enter(live_server: Any) -> Callable[..., None]:
    """``enter(page, user)``: log in through the admin's form."""

    def _enter(page: Any, user: Any, password: str = PASSWORD) -> None:
        page.goto(f"{live_server.url}/admin/login/")
        page.fill("#id_username", user.get_username())
        page.fill("#id_password", password)
        page.click("input[type=submit]")
        page.wait_for_url(f"{live_server.url}/admin/")

    return _enter
