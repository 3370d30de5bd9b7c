"""The main job end to end on a private stack: ``manage.py demo``.

The command starts ``python -m orchestrator.demo``, which makes a directory, a broker
and a database of its own before Django reads its settings, so nothing of the real
project is touched.
"""
