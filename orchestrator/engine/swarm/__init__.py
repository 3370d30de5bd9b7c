"""``manage.py worker``: processes that each fetch for themselves, under a supervisor that never runs task code."""
