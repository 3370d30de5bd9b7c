"""The only code that knows Celery's insides.

Hangs the policies on Celery's seams: ``Celery.send_task`` (publish),
``Task.__call__`` (execute), ``Task.Request`` and a ``Consumer`` subclass (settle,
in the process that acknowledges). Imported by the composition root and the test
kit only; knows neither Django nor Redis. Each seam is pinned by ``tests/seams``.
"""
