"""The only way from Flower's event loop to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from django.db import Error, close_old_connections
from tornado.web import HTTPError

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseThreads:
    """A few threads that run blocking calls with Django's connection hygiene around each."""

    def __init__(self, size: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)

    async def run(self, seconds: float | None, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in a thread and return its result.

        Args:
            seconds: how long to wait for it; None waits until it is done.

        Raises:
            HTTPError: 503 if the database cannot be reached or does not answer in time.
        """
        job = asyncio.get_running_loop().run_in_executor(self._pool, _clean, partial(call, *args, **kwargs))
        try:
            return await asyncio.wait_for(job, seconds)
        except TimeoutError as error:
            raise HTTPError(503, f"The database (DATABASE_URL) did not answer within {seconds:g} s.") from error
        except Error as error:
            raise HTTPError(503, "The database (DATABASE_URL) cannot be reached or refused the query.") from error

    def close(self) -> None:
        """Take no more calls; running ones end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _clean(call: Callable[[], T]) -> T:
    """Do what Django does around a request: drop connections that are broken or too old."""
    close_old_connections()
    try:
        return call()
    finally:
        close_old_connections()
