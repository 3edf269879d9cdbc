"""A real Ceph 16.2 on loopback, from Debian's packages: one monitor, one OSD, one gateway, and a pubsub zone.

Everything is in one folder and in processes of its own, without root rights. The OSD is a bluestore: what was
acknowledged survives `kill -9`. The gateway is in a realm, so that a second one can serve the pubsub zone (pull mode).

What 16.2 needs of a test:
- A persistent topic is first delivered from up to 30 s after it is made, and up to 30 s after its gateway started.
- A persistent HTTP topic whose port refuses connections stays wedged until the gateway restarts: in an outage, keep
  the port open and answer 503 slowly, or restart the gateway afterwards.
- The pubsub zone sees a bucket's notifications only after `announce(bucket)`, at every change of them.
- DeleteObjects on a bucket with an ObjectRemoved notification aborts the gateway: delete one by one.
- Conditional puts: `If-None-Match: *` holds; `If-Match` compares the header as it is with the bare eTag, so it must
  be sent without quotes (with them, the answer is 412 always).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from testbed.processes import Running, answers, environment, wait_for
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PACKAGES: Final = ("ceph-mon", "ceph-osd", "radosgw")


def _absent() -> str:
    """Why these tests are left out; nothing where they can run."""
    if not all(shutil.which(program) for program in PACKAGES):
        return f"Ceph is not installed: apt install --no-install-recommends {' '.join(PACKAGES)}"
    said = subprocess.run(["radosgw", "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"version (\d+)", said)
    if release is None or release[1] not in ("16", "17"):
        return f"expected Ceph 16 or 17, the last with the pull mode, seen {said.strip()!r}"
    return ""


ABSENT: Final = _absent()
INSTALLED: Final = not ABSENT

ACCESS_KEY, SECRET_KEY = "AKTEST", "SKTEST"
_SYSTEM_KEYS: Final = ("--access-key=SYSAK", "--secret=SYSSK")
_COMMAND_SECONDS: Final = 60
_QUEUE_POOL: Final = ("z1.rgw.log", "notif")  # where the gateway keeps the queues of persistent topics

_CONFIGURATION: Final = Path(__file__).with_name("ceph.conf").read_text()

_ACCOUNTS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
    "client.rgw.a": ("mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"),
    "client.rgw.b": ("mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"),
}


class Ceph:
    """A running cluster. `gateway`, `osd` and `monitor` are its processes, to be killed and started at will."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in ("monitor_port", "gateway_port", "pubsub_port")}
        self.pubsub_gateway: Running | None = None
        self._configure()
        self.monitor = self._daemon("ceph-mon", "-i", "a")
        self._make_osd()
        self.osd = self._daemon("ceph-osd", "-i", "0")
        self.await_osd()
        self._make_realm()
        self.gateway = self._daemon("radosgw", "-n", "client.rgw.a")
        self._await_gateway(self.gateway, "gateway_port")

    @property
    def endpoint(self) -> str:
        return f"http://localhost:{self._ports['gateway_port']}"

    @property
    def pubsub_endpoint(self) -> str:
        """Of the pull mode's REST API; `start_pubsub` first."""
        return f"http://localhost:{self._ports['pubsub_port']}"

    @property
    def credentials(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    @property
    def settings_environment(self) -> dict[str, str]:
        """What a process of ours needs to reach the store."""
        return {"WHIMBREL_S3_ENDPOINT": self.endpoint, **self.credentials}

    def s3(self) -> S3Client:
        return s3_client(S3Settings(s3_endpoint=self.endpoint), credentials=(ACCESS_KEY, SECRET_KEY))

    def restart_gateway(self) -> None:
        """Kill -9 and start."""
        self.gateway.kill()
        self.start_gateway()

    def start_gateway(self) -> None:
        """After `gateway.kill()`. The dead one's locks on its queues are broken, which would hold for 90 s."""
        self._break_queue_locks()
        self.gateway.start()
        self._await_gateway(self.gateway, "gateway_port")

    def start_osd(self) -> None:
        """After `osd.kill()`; the gateways go on by themselves."""
        self.osd.start()
        self.await_osd()

    def revive(self) -> list[str]:
        """Start what has ended by itself, as an operator's init system does: 16.2 crashes now and then. Its names."""
        ended = [name for name in ("osd", "gateway", "pubsub_gateway") if self._has_ended(name)]
        if "osd" in ended:
            self.start_osd()
        if "gateway" in ended:
            self.start_gateway()
        if "pubsub_gateway" in ended and self.pubsub_gateway is not None:
            self.pubsub_gateway.start()
            self._await_gateway(self.pubsub_gateway, "pubsub_port", 405)
        return ended

    def _has_ended(self, name: str) -> bool:
        daemon: Running | None = getattr(self, name)
        return daemon is not None and daemon.process.poll() is not None

    def await_osd(self) -> None:
        def up() -> bool:
            return '"num_up_osds":1' in self._command("ceph", "osd", "stat", "-f", "json") and self._osd_answers()

        wait_for(up, "the OSD", 60)

    def start_pubsub(self) -> None:
        """The gateway of the pubsub zone, which syncs from the other one; once."""
        if self.pubsub_gateway is None:
            self.pubsub_gateway = self._daemon("radosgw", "-n", "client.rgw.b")
            self._await_gateway(self.pubsub_gateway, "pubsub_port", 405)  # it lists no buckets

    def announce(self, bucket: str) -> None:
        """Make the pubsub zone see the notifications of a bucket.

        The REST side of 16.2 stores a bucket's topics as `pubsub.<tenant>.bucket.<name>/<marker>`, its sync side
        reads them without the marker.
        """
        pattern = re.compile(rf"(pubsub\.[^.]*\.bucket\.{re.escape(bucket)}/).+")
        names = [pattern.fullmatch(name) for name in self._command("rados", "-p", "ps.rgw.log", "ls").splitlines()]
        (found,) = [name for name in names if name]
        copy = self._folder / f"topics-of-{bucket}"
        self._command("rados", "-p", "ps.rgw.log", "get", found[0], str(copy))
        self._command("rados", "-p", "ps.rgw.log", "put", found[1], str(copy))

    def admin(self, *arguments: str) -> Any:
        """The JSON that `radosgw-admin` prints."""
        return json.loads(self._command("radosgw-admin", *arguments) or "null")

    def stop(self) -> None:
        for daemon in ("pubsub_gateway", "gateway", "osd", "monitor"):
            running: Running | None = getattr(self, daemon, None)
            if running is not None:
                running.kill()  # nothing of it is kept
        shutil.rmtree(self._folder / "osd", ignore_errors=True)  # sparse, and still large

    def _configure(self) -> None:
        for name in ("mon", "osd", "rgw", "rgwb", "run", "log", "crash"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        settings = _CONFIGURATION.format(folder=self._folder, fsid=uuid.uuid4(), **self._ports)
        (self._folder / "ceph.conf").write_text(settings)
        keyring = str(self._folder / "keyring")
        for number, (account, capabilities) in enumerate(_ACCOUNTS.items()):
            given = [
                text for pair in zip(capabilities[::2], capabilities[1::2], strict=True) for text in ("--cap", *pair)
            ]
            create = ["--create-keyring"] if number == 0 else []
            self._command("ceph-authtool", keyring, *create, "--gen-key", "-n", account, *given)
        fsid = re.search(r"fsid = (\S+)", settings)
        assert fsid
        address = f"[v2:127.0.0.1:{self._ports['monitor_port']}]"
        monmap = str(self._folder / "monmap")
        release = ("--enable-all-features", "--set-min-mon-release", "16")
        self._command(
            "monmaptool", "--create", "--clobber", "--fsid", fsid[1], "--addv", "a", address, *release, monmap
        )
        self._command("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    def _make_osd(self) -> None:
        identity = str(uuid.uuid4())
        self._command("ceph", "--connect-timeout", "30", "osd", "new", identity, "0")
        self._command("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)

    def _make_realm(self) -> None:
        zonegroup, zone = "--rgw-zonegroup=zg", ("--rgw-zonegroup=zg", "--rgw-zone=z1")
        main, pubsub = f"--endpoints={self.endpoint}", f"--endpoints={self.pubsub_endpoint}"
        tier = "--tier-config=uid=pubsub,start_with_full_sync=false,events_retention_days=7"
        keys = (f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        for arguments in (
            ("realm", "create", "--rgw-realm=lab", "--default"),
            ("zonegroup", "create", zonegroup, main, "--master", "--default"),
            ("zone", "create", *zone, main, "--master", "--default", *_SYSTEM_KEYS),
            ("user", "create", *zone, "--uid=sys", "--display-name=sys", *_SYSTEM_KEYS, "--system"),
            ("user", "create", *zone, "--uid=tester", "--display-name=tester", *keys),
            ("zone", "create", zonegroup, "--rgw-zone=ps", pubsub, *_SYSTEM_KEYS, "--tier-type=pubsub", tier,
             "--sync-from-all=0", "--sync-from=z1"),
            ("period", "update", *zone, "--commit"),
        ):  # fmt: skip
            self._command("radosgw-admin", *arguments)

    def _break_queue_locks(self) -> None:
        pool, namespace = _QUEUE_POOL
        with contextlib.suppress(subprocess.CalledProcessError):  # no topic yet
            for name in self._command("rados", "-p", pool, "-N", namespace, "ls").splitlines():
                held = json.loads(self._command("rados", "-p", pool, "-N", namespace, "lock", "list", name))
                for lock in held["locks"]:
                    self._break(pool, namespace, name, lock["name"])

    def _break(self, pool: str, namespace: str, name: str, lock: str) -> None:
        info = json.loads(self._command("rados", "-p", pool, "-N", namespace, "lock", "info", name, lock))
        for locker in info["lockers"]:
            self._command("rados", "-p", pool, "-N", namespace, "lock", "break", name, lock, locker["name"],
                          "--lock-cookie", locker["cookie"])  # fmt: skip

    def _osd_answers(self) -> bool:
        try:
            self._command("ceph", "--connect-timeout", "5", "tell", "osd.0", "version")
        except subprocess.CalledProcessError:
            return False
        return True

    def _await_gateway(self, gateway: Running, port: str, status: int = 200) -> None:
        url = f"http://127.0.0.1:{self._ports[port]}/"
        gateway.wait_until(lambda: answers(url, status), "an answer", 60)

    def _daemon(self, program: str, *arguments: str) -> Running:
        command = [program, *arguments, "-f", "-c", str(self._folder / "ceph.conf")]
        return Running(command, environment(), self._folder / "log" / f"{program}{arguments[-1]}.out")

    def _command(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_COMMAND_SECONDS,
            env={**os.environ, "CEPH_CONF": str(self._folder / "ceph.conf")},
        )
        return done.stdout


@contextmanager
def ceph_cluster(folder: Path) -> Iterator[Ceph]:
    cluster = Ceph(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
