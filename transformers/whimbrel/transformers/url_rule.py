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

# Not public although they may look so: addresses that carry another one inside, and a cloud's metadata service.
_CARRIERS = tuple(
    ip_network(network)
    for network in (
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 for local use
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "192.88.99.0/24",  # 6to4 relays
        "fec0::/10",  # site-local
        "168.63.129.16/32",  # Azure's metadata and DNS, reached from inside every machine there
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
    inside = (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_link_local
    )
    return not inside and not any(address in network for network in _CARRIERS)


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
