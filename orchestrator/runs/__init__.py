"""Results of runs, in django-celery-results' own tables."""
