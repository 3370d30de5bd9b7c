"""Example tasks of the reference project; they import the public surface only."""
