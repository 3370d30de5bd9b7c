"""Breaking has one door: ``python -m tests.chaos [NAME…] [--seed N] [--json]``."""
