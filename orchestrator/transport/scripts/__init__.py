"""Lua scripts of the transport: what must happen in the broker in one step."""
