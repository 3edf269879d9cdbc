"""Who may use the API: the token, the certificate and the kubeconfig that carries both, each with mode 0600.

TLS, on loopback, because kubectl sends no token without it.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CONTEXT = "whimbrel"

_YEARS = timedelta(days=3650)
_RENEWED_BEFORE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Access:
    """What the server asks for and shows."""

    token: str
    certificate: Path
    key: Path

    def allows(self, authorization: str) -> bool:
        """Whether an Authorization header carries the token, compared in constant time."""
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode())


def prepare(folder: Path) -> Access:
    """The same token and certificate at every start, made at the first."""
    folder.mkdir(parents=True, exist_ok=True)
    token, certificate, key = folder / "token", folder / "tls.crt", folder / "tls.key"
    if not token.exists() or not token.read_text().strip():
        _write(token, secrets.token_urlsafe(32).encode())
    if not key.exists() or not _is_current(certificate):
        _issue(certificate, key)
    return Access(token.read_text().strip(), certificate, key)


def write_kubeconfig(path: Path, url: str, access: Access) -> None:
    """One context, `whimbrel`, in the namespace `default`."""
    certificate = b64encode(access.certificate.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": {"server": url, "certificate-authority-data": certificate}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": "default"}}],
        "users": [{"name": CONTEXT, "user": {"token": access.token}}],
    }
    _write(path, json.dumps(document, indent=2).encode() + b"\n")


def _is_current(certificate: Path) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return False
    return found.not_valid_after_utc - _RENEWED_BEFORE > datetime.now(UTC)


def _issue(certificate: Path, key: Path) -> None:
    """Signed by itself: the kubeconfig names it as the only authority."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CONTEXT)])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), *(x509.IPAddress(ip_address(each)) for each in ("127.0.0.1", "::1"))]
    issued = (
        x509.CertificateBuilder(name, name, public, x509.random_serial_number(), now - timedelta(hours=1), now + _YEARS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(private, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(key, private.private_bytes(*form))
    _write(certificate, issued.public_bytes(serialization.Encoding.PEM))


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, content: bytes) -> None:
    """Never readable by others, never half of it."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_bytes(content)
    temporary.replace(path)
