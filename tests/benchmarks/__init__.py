"""Measuring has one door: ``python -m tests.benchmarks [NAME…] [--json]``."""
