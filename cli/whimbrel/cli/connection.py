"""Where the store, the registry and the broker are: from the environment, else from a running `whimbrel up`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.core.errors import SettingsError
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings, load
from whimbrel.local.state import read_status

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

STORE = "WHIMBREL_S3_ENDPOINT"
AWS_ITSELF = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE")


@dataclass(frozen=True, slots=True)
class Connection:
    """`endpoints` are those of the engine; a store of one's own is in this process's environment."""

    endpoints: Mapping[str, str]

    def s3(self) -> S3Client:
        return s3_client(load(S3Settings, [], program="whimbrel"))

    def tracking_uri(self) -> str:
        return os.environ.get("WHIMBREL_MLFLOW_TRACKING_URI") or self._endpoint("mlflow")

    def broker(self) -> str:
        return os.environ.get("WHIMBREL_BROKER") or self._endpoint("broker")

    def _endpoint(self, name: str) -> str:
        if name not in self.endpoints:
            raise SettingsError(
                f"expected the endpoint of {name}, seen no running engine; start one with 'whimbrel up', or set "
                f"WHIMBREL_{'MLFLOW_TRACKING_URI' if name == 'mlflow' else name.upper()}"
            )
        return self.endpoints[name]


def connect(state: Path) -> Connection:
    """The services of the running engine, unless WHIMBREL_S3_ENDPOINT names another store.

    AWS's own variables count only where no engine runs: a shell that holds credentials for AWS must not send there
    what was meant for this machine. Sets this process's environment, so that every room's settings see the same
    services. Raises SettingsError when there is neither.
    """
    status: dict[str, Any] = read_status(state) or {}
    if not status.get("running"):
        if not any(name in os.environ for name in (STORE, *AWS_ITSELF)):
            raise SettingsError(
                f"expected a running engine with its state in {state}, seen none; start it with 'whimbrel up', "
                "name its folder with --state, or name a store with WHIMBREL_S3_ENDPOINT"
            )
        return Connection(endpoints={})
    if STORE not in os.environ:
        os.environ.update(status["environment"])
        os.environ.pop("AWS_PROFILE", None)
    return Connection(endpoints=status["endpoints"])
