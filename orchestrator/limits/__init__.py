"""Django app: limits changed by people, and limits outside of tasks."""
