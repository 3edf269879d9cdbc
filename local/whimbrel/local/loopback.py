"""Which host names mean this machine: what a request must be addressed to where nobody is asked who they are.

A web page may make a browser send requests here, under a name of its own that it points to 127.0.0.1 meanwhile; the
Host header then still tells that name.
"""

from __future__ import annotations

import ipaddress

EXPECTED = "expected a loopback name as Host (127.0.0.1, [::1], localhost, *.localhost)"


def is_loopback(host: str) -> bool:
    """Whether a Host header, with or without a port, names this machine's loopback interface."""
    name = _without_port(host.strip().lower())
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def refusal(host: str) -> str | None:
    """Why a request to this host is refused, in one line; None where it is not."""
    return None if is_loopback(host) else f"{EXPECTED}, seen {host!r:.80}"


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host
