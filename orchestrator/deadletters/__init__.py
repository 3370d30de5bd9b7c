"""The inbox: one row for every message that will not run again by itself.

``drain`` moves letters from the Redis stream into rows, ``services`` holds the
verbs (redrive, discard), ``admin`` and the commands call them. Imports nothing of
its sibling apps. With the database down letters wait in the stream.
"""
