"""Which URLs the transformer fetches: hosts that the settings name, at addresses of the public internet. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from whimbrel.core.errors import InputRefused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARACTERS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}

_GLOBAL_UNICAST = ip_network("2000::/3")  # all other IPv6 is inside, or carries an IPv4 address (mapped, NAT64)
# Not public although Python, or some version of it, takes them for it.
_INSIDE = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's metadata and DNS, which every machine there reaches
        "192.0.0.0/24",  # protocol assignments; a metadata service of Oracle's among them
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # protocol assignments; Teredo, which carries an IPv4 address, among them
        "2002::/16",  # 6to4, which carries one too
    )
)
_HOST_RULE = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


@dataclass(frozen=True, slots=True)
class Target:
    """An http(s) URL that the rule allows, its address not looked at yet. `host` is lower case ASCII."""

    url: httpx.URL
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UrlRule:
    """`hosts`: exact names, or `*.suffix` for every name below it. `networks`: allowed besides public addresses."""

    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    networks: tuple[Network, ...] = ()

    def target(self, url: str) -> Target:
        """Raises InputRefused (400) that names what is not allowed."""
        if len(url) > MAX_URL_CHARACTERS:
            raise InputRefused(f"expected a URL of at most {MAX_URL_CHARACTERS} characters, seen {len(url)}")
        parsed = _parsed(url)
        if parsed.scheme not in DEFAULT_PORTS:
            raise InputRefused(f"expected a URL of http or https, seen {_shown(url)}")
        if parsed.userinfo:
            raise InputRefused("expected a URL without a user name or password in it")
        host = parsed.raw_host.decode("ascii").lower().rstrip(".")
        port = parsed.port or DEFAULT_PORTS[parsed.scheme]
        if not any(_matches(host, rule) for rule in self.hosts):
            allowed = f"one of {', '.join(self.hosts)}" if self.hosts else "none, as the setting url_hosts is empty"
            raise InputRefused(f"the host {_shown(host)} is not allowed; allowed: {allowed}")
        if port not in self.ports:
            raise InputRefused(f"the port {port} is not allowed; allowed: {', '.join(map(str, self.ports))}")
        return Target(parsed, host, port)

    def check(self, host: str, addresses: Iterable[Address]) -> None:
        """Refuses a name when any one of its addresses is inside: raises InputRefused (400)."""
        for address in addresses:
            if not is_public(address) and not any(address in network for network in self.networks):
                raise InputRefused(
                    f"the host {host} has the address {address}, which is not a public one; url_networks can allow it"
                )


def is_public(address: Address) -> bool:
    """Whether anyone on the internet may be told to connect there."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _INSIDE)


def parse_address(text: str) -> Address:
    """Without the zone of a link-local one."""
    return ip_address(text.partition("%")[0])


def parse_host_rule(text: str) -> str:
    """Lower case, for a setting. Raises ValueError."""
    rule = text.lower().rstrip(".")
    if _HOST_RULE.fullmatch(rule) or _is_address(rule):
        return rule
    raise ValueError(f"expected host names, *.suffix or addresses, seen {text!r}")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError) as error:
        raise InputRefused(f"expected a URL, seen {_shown(url)}: {error}") from None
    if not parsed.raw_host:
        raise InputRefused(f"expected a URL with a host, seen {_shown(url)}")
    return parsed


def _matches(host: str, rule: str) -> bool:
    return host.endswith(rule[1:]) and len(host) >= len(rule) if rule.startswith("*.") else host == rule


def _shown(text: str) -> str:
    return repr(text[:80])
