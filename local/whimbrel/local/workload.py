"""What one process is to run: its command, environment and probe; plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP readiness probe, with Kubernetes' defaults; an empty path only asks whether something listens."""

    path: str
    period_seconds: float = 10
    timeout_seconds: float = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class Workload:
    """One process. `arguments` may hold `$(NAME)`, replaced from the environment as Kubernetes does.

    The environment is all that the process gets. PORT is added at each start, and WHIMBREL_GRPC_PORT where `grpc`:
    free ports, or `port` where its clients must always find it at the same one. `h2c`: its one port speaks HTTP/2.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    module: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    probe: Probe | None = None
    port: int | None = None
    grpc: bool = False
    h2c: bool = False


def expand(argument: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` by its value, `$$` as `$`; a name that is not set stays as it is, as in Kubernetes."""

    def value(found: re.Match[str]) -> str:
        if found.group() == "$$":
            return "$"
        return environment.get(found.group(1), found.group())

    return _REFERENCE.sub(value, argument)
