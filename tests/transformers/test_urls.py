"""URLs of a client's choice: only allowed hosts at checked addresses, whatever names and servers answer."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from testbed.odd_http import BODY, OddServer, odd_server, write_certificates
from whimbrel.core.errors import InputRefused, PayloadTooLarge, Unavailable, UnfetchableUrl, WhimbrelError
from whimbrel.local.state import free_port
from whimbrel.transformers.url_rule import UrlRule, is_public
from whimbrel.transformers.urls import UrlFetcher

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture(scope="module")
def server() -> Iterator[OddServer]:
    with odd_server() as running:
        yield running


@asynccontextmanager
async def fetcher(
    server: OddServer,
    hosts: tuple[str, ...] = ("127.0.0.1", "*.test"),
    networks: Any = LOOPBACK,
    *,
    ports: tuple[int, ...] = (),
    max_bytes: int = 100_000,
    max_seconds: float = 20.0,
    ca_bundle: Path | None = None,
) -> AsyncIterator[UrlFetcher]:
    made = UrlFetcher(
        UrlRule(hosts, (server.port, *ports), networks),
        max_bytes=max_bytes,
        max_seconds=max_seconds,
        max_redirects=2,
        connections=4,
        ca_bundle=str(ca_bundle) if ca_bundle else None,
    )
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[list[str]]], list[str]]:
    """Gives a name its addresses: one list for each time that it is asked for, the last one for ever.

    Returns the list that every question is noted in.
    """
    real, answers, asked = socket.getaddrinfo, dict[str, list[list[str]]](), list[str]()

    def getaddrinfo(host: str, port: int, *arguments: Any, **options: Any) -> Any:
        if host not in answers:
            return real(host, port, *arguments, **options)
        asked.append(host)
        given = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        if not given:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in given]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def name(host: str, addresses: list[list[str]]) -> list[str]:
        answers[host] = addresses
        return asked

    return name


def base(server: OddServer, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.port}"


@pytest.mark.anyio
async def test_reads_the_body_of_an_allowed_url(server: OddServer) -> None:
    async with fetcher(server) as urls:
        assert await urls.fetch(f"{base(server)}/image?") == BODY
        assert await urls.fetch(f"{base(server)}/less-than-it-sends") == BODY[:9]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "expected a URL"),
        ("http://", "expected a URL with a host"),
        ("ftp://allowed.example/x", "of http or https, seen 'ftp://"),
        ("file:///etc/passwd", "expected a URL"),
        ("http://user:secret@allowed.example/", "without a user name or password"),
        ("http://user@allowed.example/", "without a user name or password"),
        ("http://other.example/", "host 'other.example' is not allowed; allowed: one of allowed.example, \\*.below"),
        ("http://allowed.example.evil/", "is not allowed"),
        ("http://below.example/", "is not allowed"),
        ("http://xbelow.example/", "is not allowed"),
        ("http://allowed.example:22/", "port 22 is not allowed; allowed: 80, 443"),
        ("http://2130706433/", "is not allowed"),
        ("http://[::1]/", "is not allowed"),
        ("http://allowed.example/" + "x" * 3000, "at most 2048 characters"),
        ("http://allowed.example\\@evil.example/", "expected a URL|is not allowed"),
        ("http://allowed.example:99999/", "expected a URL|is not allowed"),
    ],
)
def test_refuses_what_the_rule_does_not_allow(url: str, reason: str) -> None:
    rule = UrlRule(("allowed.example", "*.below.example"))
    with pytest.raises(InputRefused, match=reason) as refused:
        rule.target(url)
    assert refused.value.status == 400
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://allowed.example", "allowed.example", 80),
        ("https://ALLOWED.example./a?b", "allowed.example", 443),
        ("https://a.b.below.example:80/", "a.b.below.example", 80),
        ("http://müller.example/", "xn--mller-kva.example", 80),
    ],
)
def test_allows_names_and_what_is_below_a_suffix(url: str, host: str, port: int) -> None:
    target = UrlRule(("allowed.example", "*.below.example", "xn--mller-kva.example")).target(url)
    assert (target.host, target.port) == (host, port)


def test_without_hosts_nothing_is_allowed() -> None:
    with pytest.raises(InputRefused, match="none, as the setting url_hosts is empty"):
        UrlRule().target("https://example.org/")


INSIDE = """
    0.0.0.0 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.9.9.9 168.63.129.16 169.254.169.254 172.16.0.1
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 203.0.113.5 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
    :: ::1 ::10.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1
    100::1 2001::1 2001:db8::1 2002:a00:1::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
"""


@pytest.mark.parametrize("address", INSIDE.split())
def test_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "185.199.108.153", "2606:4700::1111", "2a00:1450:4001::5e"])
def test_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.anyio
async def test_a_name_with_one_address_inside_is_refused(server: OddServer, names: Any) -> None:
    names("inside.test", [["93.184.215.14", "127.0.0.1"]])
    before = len(server.requests)
    async with fetcher(server, networks=()) as urls:
        with pytest.raises(
            InputRefused, match=r"host inside\.test has the address 127\.0\.0\.1, which is not a public one"
        ):
            await urls.fetch(f"{base(server, 'inside.test')}/image")
    assert len(server.requests) == before


@pytest.mark.anyio
async def test_a_name_is_resolved_once_and_that_address_is_used(server: OddServer, names: Any) -> None:
    """The second answer, which is what a rebinding name gives to whoever asks again, is never asked for."""
    asked = names("rebinds.test", [["127.0.0.1"], ["10.255.255.1"]])
    async with fetcher(server) as urls:
        assert await urls.fetch(f"{base(server, 'rebinds.test')}/image") == BODY
        assert asked == ["rebinds.test"]
        assert server.requests[-1] == f"rebinds.test:{server.port} /image"
        with pytest.raises(InputRefused, match=r"address 10\.255\.255\.1"):
            await urls.fetch(f"{base(server, 'rebinds.test')}/image")


@pytest.mark.anyio
async def test_a_redirect_rebinds_in_vain(server: OddServer, names: Any) -> None:
    names("rebinds.test", [["127.0.0.1"], ["10.255.255.1"]])
    async with fetcher(server) as urls:
        with pytest.raises(InputRefused, match=r"address 10\.255\.255\.1"):
            await urls.fetch(f"{base(server, 'rebinds.test')}/redirect?to=/image")


@pytest.mark.anyio
async def test_the_next_address_is_tried_when_one_does_not_accept(server: OddServer, names: Any) -> None:
    names("two.test", [["127.0.0.9", "127.0.0.1"]])
    async with fetcher(server) as urls:
        assert await urls.fetch(f"{base(server, 'two.test')}/image") == BODY


@pytest.mark.anyio
async def test_follows_redirects_within_the_rule(server: OddServer) -> None:
    async with fetcher(server) as urls:
        for code in (301, 302, 303, 307, 308):
            assert await urls.fetch(f"{base(server)}/redirect?code={code}%26to=/image".replace("%26", "&")) == BODY


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("/redirect?to=http://elsewhere.example/", InputRefused, "host 'elsewhere.example' is not allowed"),
        ("/redirect?to=//elsewhere.example/", InputRefused, "host 'elsewhere.example' is not allowed"),
        ("/redirect?to=http://169.254.169.254/latest", InputRefused, "host '169.254.169.254' is not allowed"),
        ("/redirect?to=http://127.0.0.1:1/", InputRefused, "port 1 is not allowed"),
        ("/redirect?to=file:///etc/passwd", InputRefused, "expected a URL"),
        ("/redirect?to=http://a:b@127.0.0.1/", InputRefused, "without a user name"),
        ("/redirect?to=/redirect?to=/redirect?to=/image", InputRefused, "at most 2 redirects"),
        ("/nowhere", UnfetchableUrl, "answered 302 without a URL"),
        ("/status?code=404", UnfetchableUrl, "expected 200 from 127.0.0.1, seen 404"),
        ("/status?code=403", UnfetchableUrl, "seen 403"),
        ("/status?code=206", UnfetchableUrl, "seen 206"),
        ("/status?code=204", UnfetchableUrl, "seen 204"),
        ("/gzip", UnfetchableUrl, "seen the encoding 'gzip'"),
        ("/status?code=500", Unavailable, "answered 500"),
        ("/status?code=503&retry_after=7", Unavailable, "answered 503"),
        ("/status?code=429&retry_after=100000", Unavailable, "answered 429"),
        ("/more-than-it-sends", Unavailable, "reading from 127.0.0.1"),
        ("/large-headers", Unavailable, "reading from 127.0.0.1"),
        ("/nonsense", Unavailable, "reading from 127.0.0.1"),
        ("/declares-too-much", PayloadTooLarge, "at most 100000 bytes at 127.0.0.1, seen 100000000"),
        ("/endless", PayloadTooLarge, "at most 100000 bytes"),
        ("/endless-chunks", PayloadTooLarge, "at most 100000 bytes"),
    ],
)
async def test_says_why_not(server: OddServer, path: str, error: type[WhimbrelError], reason: str) -> None:
    async with fetcher(server) as urls:
        with pytest.raises(WhimbrelError, match=reason) as refused:
            await urls.fetch(base(server) + path)
    assert type(refused.value) is error
    asked = {"/status?code=503&retry_after=7": "7", "/status?code=429&retry_after=100000": "60"}
    if path in asked:
        assert refused.value.headers() == {"retry-after": asked[path]}


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/silent"])
async def test_a_server_has_so_much_time_in_all(server: OddServer, path: str) -> None:
    async with fetcher(server, max_seconds=0.3) as urls:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1 did not send all of the image within 0\.3 s|reading from"):
            await urls.fetch(base(server) + path)


@pytest.mark.anyio
async def test_a_name_or_a_port_without_anyone(server: OddServer, names: Any) -> None:
    names("nobody.test", [[]])
    closed = free_port()
    async with fetcher(server, ports=(closed,)) as urls:
        with pytest.raises(UnfetchableUrl, match=r"nobody\.test has no address"):
            await urls.fetch(f"{base(server, 'nobody.test')}/image")
        with pytest.raises(Unavailable, match=r"reading from 127\.0\.0\.1"):
            await urls.fetch(f"http://127.0.0.1:{closed}/image")


@pytest.mark.anyio
async def test_tls_is_verified_for_the_name_and_not_for_the_address(names: Any, tmp_path: Path) -> None:
    names("images.test", [["127.0.0.1"]])
    names("other.test", [["127.0.0.1"]])
    authority, certificate = write_certificates(tmp_path, "images.test")
    with odd_server(certificate) as server:
        async with fetcher(server, ca_bundle=authority) as urls:
            assert await urls.fetch(f"https://images.test:{server.port}/image") == BODY
            assert server.names == ["images.test"]
            with pytest.raises(UnfetchableUrl, match=r"other\.test has no certificate that is trusted"):
                await urls.fetch(f"https://other.test:{server.port}/image")
            with pytest.raises(InputRefused, match="redirects from https to http"):
                await urls.fetch(f"https://images.test:{server.port}/redirect?to=http://images.test:{server.port}/x")
        async with fetcher(server) as urls:
            with pytest.raises(UnfetchableUrl, match=r"images\.test has no certificate that is trusted"):
                await urls.fetch(f"https://images.test:{server.port}/image")
