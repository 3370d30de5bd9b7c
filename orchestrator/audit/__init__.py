"""Who did what: one append-only row for every state change by a person.

Any app above may write entries through :mod:`orchestrator.audit.services`.
Fails closed: an action that cannot be recorded is not done (same transaction).
"""
