"""How the platform is: probes, the state of the queues, checks of the set-up.

Looks and never changes anything. Nothing below imports it. Fails towards saying so:
what cannot be asked within its time is reported as unreachable.
"""
