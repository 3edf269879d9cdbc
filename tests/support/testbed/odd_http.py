"""A web server that redirects, drips, lies about its length and answers in every other way that it should not."""

from __future__ import annotations

import datetime as dt
import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BODY = b"the bytes of an image"


@dataclass
class OddServer:
    port: int
    requests: list[str] = field(default_factory=list)  # "HOST PATH"
    names: list[str | None] = field(default_factory=list)  # asked for by TLS


class _Odd(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    seen: OddServer
    stopping: threading.Event

    def do_GET(self) -> None:
        self.seen.requests.append(f"{self.headers['host']} {self.path}")
        self.close_connection = True
        query = parse_qs(urlsplit(self.path).query)
        name = urlsplit(self.path).path.strip("/").replace("-", "_")
        try:
            getattr(self, f"_{name}")(**{key: values[0] for key, values in query.items()})
        except OSError:
            return  # the client has seen enough

    def log_message(self, format: str, *arguments: object) -> None:
        """No line per request."""

    def _headers(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()

    def _image(self) -> None:
        self._headers(content_length=str(len(BODY)))
        self.wfile.write(BODY)

    def _status(self, code: str, retry_after: str = "") -> None:
        asked = {"retry_after": retry_after} if retry_after else {}
        self._headers(int(code), content_length="0", **asked)

    def _redirect(self, to: str, code: str = "302") -> None:
        self._headers(int(code), content_length="0", location=to)

    def _nowhere(self) -> None:
        self._headers(302, content_length="0")

    def _more_than_it_sends(self) -> None:
        self._headers(content_length="1000")
        self.wfile.write(BODY)

    def _less_than_it_sends(self) -> None:
        self._headers(content_length="9")
        self.wfile.write(BODY)

    def _declares_too_much(self) -> None:
        self._headers(content_length="100000000")

    def _endless(self) -> None:
        self._headers(connection="close")
        while not self.stopping.is_set():
            self.wfile.write(b"x" * 65_536)

    def _endless_chunks(self) -> None:
        self._headers(transfer_encoding="chunked")
        while not self.stopping.is_set():
            self.wfile.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    def _gzip(self) -> None:
        bomb = gzip.compress(b"\x00" * 1_000_000)
        self._headers(content_length=str(len(bomb)), content_encoding="gzip")
        self.wfile.write(bomb)

    def _drip(self) -> None:
        self._headers(content_length="100000")
        while not self.stopping.wait(0.01):
            self.wfile.write(b".")

    def _drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.stopping.wait(0.01):
            self.wfile.write(b"x: y\r\n")

    def _silent(self) -> None:
        self.stopping.wait(20)

    def _large_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n")

    def _nonsense(self) -> None:
        self.wfile.write(b"this is not HTTP\r\n\r\n")


@contextmanager
def odd_server(certificate: Path | None = None) -> Iterator[OddServer]:
    """On loopback, for the length of a test; over TLS with `certificate`, a file with its key."""
    seen, stopping = OddServer(0), threading.Event()

    class Bound(_Odd):
        pass

    Bound.seen, Bound.stopping = seen, stopping
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    seen.port = server.server_address[1]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _socket, name, _context: seen.names.append(name)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def write_certificates(folder: Path, host: str) -> tuple[Path, Path]:
    """(the authority's certificate, the certificate and key of `host` signed by it)."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("an authority of these tests", authority_key, "an authority of these tests", authority_key)
    certificate = _certificate(host, key, "an authority of these tests", authority_key)
    trusted, served = folder / "authority.pem", folder / f"{host}.pem"
    trusted.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    served.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return trusted, served


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = dt.datetime.now(dt.UTC)
    is_authority = subject == issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
