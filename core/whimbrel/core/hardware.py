"""The hardware that a network is computed on, as far as precision and machine code depend on it. Imports no torch."""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTION_SETS = re.compile(  # x86: what a compiler may use; the kernel's other flags tell of no instruction
    r"(v?aes|abm|adx|amx_.*|avx.*|bmi[12]|clflushopt|clwb|cx16|f16c|fma|fsgsbase|gfni|lahf_lm|lzcnt|mmx|movbe"
    r"|movdir.*|pclmulqdq|vpclmulqdq|pku|popcnt|prfchw|3dnowprefetch|rdpid|rdrand|rdseed|serialize|sha_ni|s?sse.*|pni"
    r"|waitpkg|xsave.*|sm[34]|sha512)"
)
_LOWER_ON_CPU = (  # instruction set that multiplies bfloat16, and what the class is called by
    ("amx_bf16", "amx_bf16"),
    ("avx512_bf16", "avx512_bf16"),
    ("bf16", "arm_bf16"),
)

BFLOAT16: Final = "bfloat16"


class Target(BaseModel):
    """A device, and the torch on it. `instruction_sets`: of a CPU, sorted; `capability`: of a GPU, as `9.0`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    torch: str = Field(min_length=1, max_length=100)
    device: Literal["cpu", "cuda"] = "cpu"
    machine: str = Field(default="", max_length=40)
    instruction_sets: tuple[str, ...] = Field(default=(), max_length=200)
    capability: str = Field(default="", max_length=10, pattern=r"^([0-9]{1,3}\.[0-9]{1,2})?$")

    @property
    def lower_dtype(self) -> str | None:
        """The precision below float32 that this hardware multiplies in; None for none."""
        return BFLOAT16 if self._bfloat16_by else None

    @property
    def hardware_class(self) -> str:
        """Within one, and with one torch, a precision gives the same top label. `cpu-avx512_bf16`, `cuda-9.0`."""
        return f"{self.device}-{self._bfloat16_by or self.capability or self.machine or 'unknown'}"

    @property
    def _bfloat16_by(self) -> str | None:
        if self.device == "cuda":
            major = int(self.capability.partition(".")[0] or 0)
            return self.capability if major >= 8 else None
        return next((name for flag, name in _LOWER_ON_CPU if flag in self.instruction_sets), None)

    def unfit(self, here: Target) -> str | None:
        """Why machine code that was compiled for this target does not run `here`; None where it does."""
        for name in ("torch", "device", "machine", "capability"):
            expected, seen = getattr(self, name), getattr(here, name)
            if expected != seen:
                return f"it is for {name} {expected or '(none)'}, here is {seen or '(none)'}"
        missing = sorted(set(self.instruction_sets) - set(here.instruction_sets))
        if missing:
            return f"this CPU lacks {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}"
        if self.device == "cpu" and not self.instruction_sets:
            return "the instruction sets of the CPU that it is for are unknown"
        return None


def cpu_target(torch_version: str) -> Target:
    return Target(torch=torch_version, machine=platform.machine(), instruction_sets=instruction_sets())


def cuda_target(torch_version: str, capability: tuple[int, int]) -> Target:
    return Target(
        torch=torch_version, device="cuda", machine=platform.machine(), capability=f"{capability[0]}.{capability[1]}"
    )


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Of this machine's CPU, sorted; empty where the kernel does not tell."""
    try:
        return parse_instruction_sets(_CPUINFO.read_text())
    except OSError:
        return ()


def parse_instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """From the text of /proc/cpuinfo: those that every core has. ARM's features are all of them instruction sets."""
    cores = [line.split(":", 1) for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    if not cores:
        return ()
    common = set.intersection(*(set(flags.split()) for _, flags in cores))
    if cores[0][0].strip() == "flags":
        common = {flag for flag in common if _INSTRUCTION_SETS.fullmatch(flag)}
    return tuple(sorted(common))
