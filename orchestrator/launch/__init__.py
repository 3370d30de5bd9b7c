"""Runs the platform on one machine: embedded broker, child processes, ports, lock.

Knows no Django and no Celery, so that ``settings.py`` may ask it where things lie.
"""
