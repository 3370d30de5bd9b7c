"""Messages that lie in the caller's database transaction until they are sent.

Rolled back means never sent; committed means sent, by the process that committed or,
if it died or the broker was away, by a relay.
"""
