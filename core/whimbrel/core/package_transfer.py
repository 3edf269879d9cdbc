"""A model package on its way: from a store or a folder into this machine's cache, and from a folder into a store.

A download lands in a folder of its own and is renamed to its digest once every file was verified, so whatever is
in the cache under a digest is whole. A process that is killed half-way leaves a folder that the next one removes.
Who removes packages from the cache, and when, is `package_cache`'s.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.attestations import CompiledCode
from whimbrel.core.errors import NotFound, PackageRefused, Unavailable
from whimbrel.core.package import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    Package,
    go_on,
    parse_manifest,
    read_manifest,
    verify,
)
from whimbrel.core.package_cache import Hold, downloading, hold, partial_folder, put_away, shrink
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import as_whimbrel_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_PACKAGE_BYTES = 16 * 1024**3
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Held:
    """A verified package that nobody removes before its release; one that lies outside the cache nobody does anyway."""

    package: Package
    hold: Hold | None

    def release(self) -> None:
        if self.hold is not None:
            self.hold.release()


def fetch(
    uri: str, digest: str, cache: Path, client: S3Client | None, *, max_bytes: int = MAX_PACKAGE_BYTES
) -> Package:
    """The package at `uri` as `fetch_held` has it, for who is alone with the cache."""
    held = fetch_held(uri, digest, cache, client, max_bytes=max_bytes)
    held.release()
    return held.package


def fetch_held(
    uri: str,
    digest: str,
    cache: Path,
    client: S3Client | None,
    *,
    max_bytes: int = MAX_PACKAGE_BYTES,
    cache_bytes: int | None = None,
    check: Callable[[], None] = go_on,
) -> Held:
    """The package at `uri`, every file verified against `digest` (`sha256:<hex>`), and held.

    `s3://bucket/prefix` is downloaded once into `cache/<hex>`; `file:///folder` is verified where it lies. Before a
    download, packages that nobody uses make room for it within `cache_bytes`. `check` is called before each chunk,
    and ends the work by raising. Raises PackageRefused (another digest, malformed, too large), NotFound and
    Unavailable (the store; a disk too full; another process downloading the same).
    """
    _check_digest(uri, digest)
    local = _local_folder(uri)
    if local is not None:
        return Held(verify(local, digest, check), None)
    client = _client_for(uri, client)
    folder = cache / digest.removeprefix("sha256:")
    held = hold(folder)
    try:
        with suppress(PackageRefused):  # not there, or damaged since it was written
            return Held(verify(folder, digest, check), held)
        download = _Download(ObjectRef.from_uri(uri), digest, client, check)
        return Held(_download(download, folder, max_bytes, cache_bytes), held)
    except BaseException:
        held.release()
        raise


def manifest_of(uri: str, digest: str, cache: Path, client: S3Client | None) -> Manifest:
    """model.json of the package at `uri`, checked against `digest`; nothing else of it is read. Raises as `fetch`."""
    _check_digest(uri, digest)
    local = _local_folder(uri)
    if local is not None:
        manifest, seen = read_manifest(local)
        if seen != digest:
            raise PackageRefused(f"expected the model package {digest}, seen {seen} in {local}")
        return manifest
    with suppress(PackageRefused):  # not in the cache, or damaged there
        manifest, seen = read_manifest(cache / digest.removeprefix("sha256:"))
        if seen == digest:
            return manifest
    return _fetch_manifest(ObjectRef.from_uri(uri), digest, _client_for(uri, client))[1]


def fetch_beside(
    uri: str, code: CompiledCode, path: Path, client: S3Client | None, check: Callable[[], None] = go_on
) -> None:
    """Write the file of `code` that lies beside the package at `uri` to `path`, a new file: its bytes and no others.

    `check` is called before each chunk, and ends the work by raising. Raises PackageRefused, NotFound and Unavailable.
    """
    local, digest, written = _local_folder(uri), hashlib.sha256(), 0
    check()
    with _store_errors(f"download of {code.path} beside {uri}"), path.open("xb") as file:
        for chunk in _chunks(uri, local, code.path, client):
            check()
            written += len(chunk)
            if written > code.size:
                break
            digest.update(chunk)
            file.write(chunk)
    if written != code.size or digest.hexdigest() != code.sha256:
        raise PackageRefused(
            f"expected {code.size} bytes with sha256 {code.sha256} in {code.path} beside {uri}, seen others"
        )


def put_beside(path: Path, uri: str, name: str, client: S3Client | None) -> None:
    """Put the file at `path` beside the package at `uri`. Raises PackageRefused, NotFound and Unavailable."""
    local = _local_folder(uri)
    if local is not None:
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, local / name)
        return
    target = ObjectRef.from_uri(uri)
    _upload_file(path, target, name, _client_for(uri, client))


def upload(folder: Path, uri: str, client: S3Client) -> Package:
    """Put the package in `folder` under `s3://bucket/prefix`, model.json last: with it, the package is whole.

    Can be repeated. Raises PackageRefused, NotFound (the bucket) and Unavailable.
    """
    package, target = verify(folder, None), ObjectRef.from_uri(uri)
    for name in [*package.manifest.files, MANIFEST]:
        _upload_file(folder / name, target, name, client)
    return package


def _upload_file(path: Path, target: ObjectRef, name: str, client: S3Client) -> None:
    doing = f"upload of {name} to {target.uri}"
    with _store_errors(doing):
        try:
            client.upload_file(str(path), target.bucket, _key_of(target, name))
        except S3UploadFailedError as error:
            if isinstance(error.__context__, ClientError):
                raise error.__context__ from None
            raise Unavailable(f"{doing}: {error}", retry_after_seconds=5) from None


def _chunks(uri: str, local: Path | None, name: str, client: S3Client | None) -> Iterator[bytes]:
    """Of the file `name` beside the package at `uri`, which is the folder `local` where there is one."""
    if local is None:
        source = ObjectRef.from_uri(uri)
        answer = _client_for(uri, client).get_object(Bucket=source.bucket, Key=_key_of(source, name))
        yield from answer["Body"].iter_chunks(_CHUNK_BYTES)
        return
    try:
        with (local / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise NotFound(f"expected the file {local / name}, seen {error.strerror}") from None


def _check_digest(uri: str, digest: str) -> None:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise PackageRefused(f"expected a digest sha256:<64 hex digits> for {uri}, seen {digest!r}")


def _local_folder(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def _client_for(uri: str, client: S3Client | None) -> S3Client:
    if urlsplit(uri).scheme != "s3" or client is None:
        raise PackageRefused(f"expected a model package at s3://BUCKET/PREFIX or file:///FOLDER, seen {uri!r}")
    return client


@dataclass(frozen=True, slots=True)
class _Download:
    source: ObjectRef
    digest: str
    client: S3Client
    check: Callable[[], None]


def _download(download: _Download, folder: Path, max_bytes: int, cache_bytes: int | None) -> Package:
    with downloading(folder):
        if folder.is_dir():
            with suppress(PackageRefused):  # another process was faster
                return verify(folder, download.digest, download.check)
            put_away(folder)
        content, manifest = _fetch_manifest(download.source, download.digest, download.client)
        _make_room(manifest, folder.parent, max_bytes, cache_bytes)
        partial = partial_folder(folder)
        try:
            (partial / MANIFEST).write_bytes(content)
            for name, entry in manifest.files.items():
                _fetch_file(download, name, entry.size, partial / name)
            verify(partial, download.digest, download.check)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Package(folder, manifest, download.digest)


def _fetch_manifest(source: ObjectRef, digest: str, client: S3Client) -> tuple[bytes, Manifest]:
    """model.json, checked against the digest before anything that it lists is asked for."""
    with _store_errors(f"download of {MANIFEST} from {source.uri}"):
        body = client.get_object(Bucket=source.bucket, Key=_key_of(source, MANIFEST))["Body"]
        content = body.read(MAX_MANIFEST_BYTES + 1)
    manifest, seen = parse_manifest(content)
    if seen != digest:
        raise PackageRefused(f"expected the model package {digest}, seen {seen} at {source.uri}")
    return content, manifest


def _fetch_file(download: _Download, name: str, size: int, path: Path) -> None:
    source = download.source
    path.parent.mkdir(parents=True, exist_ok=True)
    download.check()
    with _store_errors(f"download of {name} from {source.uri}"), path.open("wb") as file:
        body = download.client.get_object(Bucket=source.bucket, Key=_key_of(source, name))["Body"]
        written = 0
        for chunk in body.iter_chunks(_CHUNK_BYTES):
            download.check()
            written += len(chunk)
            if written > size:
                raise PackageRefused(f"expected {size} bytes in {name} at {source.uri}, seen more")
            file.write(chunk)


def _make_room(manifest: Manifest, cache: Path, max_bytes: int, cache_bytes: int | None) -> None:
    needed = sum(entry.size for entry in manifest.files.values())
    if needed > max_bytes:
        raise PackageRefused(f"expected a model package of at most {max_bytes} bytes, seen {needed}")
    if cache_bytes is not None:
        shrink(cache, max(0, cache_bytes - needed))
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise Unavailable(f"a model package of {needed} bytes needs room in {cache}, where {free} bytes are free")


def _key_of(source: ObjectRef, name: str) -> str:
    return f"{source.key.rstrip('/')}/{name}"


@contextmanager
def _store_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, doing) from None
