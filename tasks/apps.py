"""The Django app that holds the business tasks."""

from django.apps import AppConfig


class TasksConfig(AppConfig):
    """Workers and web processes learn of the tasks through ``CELERY_IMPORTS`` in the settings."""

    name = "tasks"
    verbose_name = "Business tasks"
