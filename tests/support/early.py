"""A module of tasks that asks the database as it is imported, as some projects do: before a worker forks."""

from tests.support.pooled import backend_pid

#: The connection that the importing process had.
BACKEND = backend_pid()
