"""Pages that join the Django apps of the platform."""
