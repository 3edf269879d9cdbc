"""`whimbrel up` as a process, and what became of the objects that a test puts into its store."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from testbed.processes import Running, environment, running, wait_for
from whimbrel.cli.outcomes import Outcomes, read_outcomes
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import read_status

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NULL_OVERLAY = Path(__file__).parents[2] / "data" / "overlays" / "null"


@dataclass
class OneMachine:
    """A running engine. `process` is `whimbrel up`; its components are known by the names of their resources."""

    state: Path
    process: Running
    _client: dict[str, S3Client] = field(default_factory=dict)

    def status(self) -> dict[str, Any]:
        status = read_status(self.state)
        assert status is not None, f"no status in {self.state}:\n{self.process.output()[-4000:]}"
        return status

    def component(self, name: str) -> Mapping[str, Any]:
        """Its status; `pid` is that of one of its processes, of which the engine may run several."""
        found = [each for each in self.status()["components"] if each["name"] == name]
        assert found, f"no component {name!r} in {self.status()}"
        return dict(found[0])

    def wait_ready(self, seconds: float = 300) -> None:
        def ready() -> bool:
            status = read_status(self.state)
            return bool(status and status["running"] and status.get("ready"))

        self.process.wait_until(ready, "readiness", seconds)

    def kill(self, name: str) -> None:
        """End a process of a component with SIGKILL, by the id that the engine recorded, and wait for its successor.

        One that was about to go has none: then the next one is killed.
        """
        before = self.component(name)["restarts"]
        while self.component(name)["restarts"] == before:
            pid = wait_for(lambda: self.component(name)["pid"], f"a process of {name}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._wait_for_another(name, pid)

    def _wait_for_another(self, name: str, pid: int) -> None:
        wait_for(lambda: self.component(name)["pid"] not in (pid, None), f"a process of {name} after {pid}")

    def s3(self) -> S3Client:
        variables = self.status()["environment"]
        return s3_client(
            S3Settings(s3_endpoint=variables["WHIMBREL_S3_ENDPOINT"]),
            credentials=(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]),
        )

    def put(self, objects: Mapping[str, bytes], bucket: str = "photos") -> None:
        client = self.s3()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda each: client.put_object(Bucket=bucket, Key=each[0], Body=each[1]), objects.items()))

    def outcomes(self, bucket: str = "photos", prefix: str = "") -> Outcomes:
        return read_outcomes(self.s3(), bucket, "results", "dead-letters", prefix=prefix)


@contextmanager
def one_machine(state: Path, *, manifests: Path = NULL_OVERLAY, ready_seconds: float = 300) -> Iterator[OneMachine]:
    """`whimbrel up` from start to stop; unless told otherwise its predictor answers by rule, without torch."""
    state.mkdir(parents=True, exist_ok=True)
    arguments = ("up", "--state", str(state), "--manifests", str(manifests))
    with running("whimbrel.cli", *arguments, log=state.parent / f"{state.name}-up.log") as process:
        machine = OneMachine(state, process)
        machine.wait_ready(ready_seconds)
        yield machine


def picture(number: int, side: int = 8) -> bytes:
    """A small PNG that differs from every other number's; the null predictor answers `number % 10`."""
    image = Image.new("RGB", (side, side))
    image.putpixel((0, 0), (number % 256, 0, 0))
    image.putpixel((1, 0), (number // 256 % 256, number // 65536, 1))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pictures(prefix: str, count: int) -> dict[str, bytes]:
    return {f"{prefix}{number:04d}.png": picture(number) for number in range(count)}


def command_output(*arguments: str, state: Path) -> Any:
    """The JSON that a `whimbrel` command prints."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "whimbrel.cli", *arguments, "--state", str(state)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def missing(expected: Iterable[str], outcomes: Outcomes) -> set[str]:
    return {key for key in expected if not outcomes.of(key)}
