"""Choosing ports."""

from __future__ import annotations

import contextlib
import errno
import socket

LOOPBACK = "127.0.0.1"
_NOT_OURS = (errno.EADDRNOTAVAIL,)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Say whether a server could listen there now.

    Raises:
        OSError: the host is not one of this machine's addresses.
    """
    for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, proto) as probe:
            # As servers do, so that a port in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno in _NOT_OURS:
                    raise
                return False
    return True


def free_port(preferred: int = 0, host: str = LOOPBACK, *, avoid: frozenset[int] | set[int] = frozenset()) -> int:
    """Return the preferred port if it is free, else one that the system picks.

    Args:
        avoid: Ports already promised to somebody who does not listen yet.
    """
    if preferred and preferred not in avoid and is_free(preferred, host):
        return preferred
    while True:
        family, kind, proto, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(address)
            port = int(probe.getsockname()[1])
        if port not in avoid:
            return port


def answers(port: int, host: str = LOOPBACK, *, timeout: float = 0.5) -> bool:
    """Say whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=timeout):
        return True
    return False
