"""The listening socket that every server of ours is given."""

from __future__ import annotations

import socket

_BACKLOG = 2048


def listening_socket(host: str, port: int) -> socket.socket:
    """Bound and listening; port 0 is any free one. Raises OSError.

    asyncio sets TCP_NODELAY only on sockets that name their protocol, which accepted ones do not: without it a
    response of two writes waits some 40 ms for the client's delayed acknowledgement. What is accepted inherits it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
