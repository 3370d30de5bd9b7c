"""Business tasks of the reference project, as one would write them: they know Orchestrator's public surface only."""
