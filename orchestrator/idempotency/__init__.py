"""Idempotency records in the database, for effects that commit together with their record."""
