"""Celery's transport for Redis and Valkey that loses nothing: claim, lease, batched ack, delay.

Speaks Celery's ordinary message protocol and keeps kombu's layout of one LIST a
queue and priority. What changes is what happens around them: a message moves into an
in-flight hash in the same step in which it leaves its list, belongs to an owner whose
lease is renewed, and comes back when that lease runs out. Knows kombu and Redis, not
Celery or Django.
"""
