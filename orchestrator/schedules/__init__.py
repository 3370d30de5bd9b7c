"""Database schedules on django-celery-beat."""
