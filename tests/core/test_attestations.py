"""What was measured or compiled on one machine counts only where the hardware and torch are the same."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from whimbrel.core import attestations
from whimbrel.core.attestations import Agreement, Attestations, CompiledCode, of_tags, tag_of
from whimbrel.core.hardware import Target, cpu_target, cuda_target, instruction_sets, parse_instruction_sets

X86 = Target(torch="2.15.0", machine="x86_64", instruction_sets=("avx2", "avx512_bf16", "fma"))
CODE = CompiledCode(target=X86, dtype="bfloat16", max_batch=64, sha256="a" * 64, size=1000)
AGREEMENT = Agreement(hardware_class=X86.hardware_class, torch="2.15.0", dtype="bfloat16", images=200, agreeing=199)


@pytest.mark.parametrize(
    ("target", "lower", "named"),
    [
        (X86, "bfloat16", "cpu-avx512_bf16"),
        (X86.model_copy(update={"instruction_sets": ("amx_bf16", "avx512_bf16")}), "bfloat16", "cpu-amx_bf16"),
        (X86.model_copy(update={"instruction_sets": ("avx2", "fma")}), None, "cpu-x86_64"),
        (Target(torch="2", machine="aarch64", instruction_sets=("asimd", "bf16")), "bfloat16", "cpu-arm_bf16"),
        (cuda_target("2", (9, 0)), "bfloat16", "cuda-9.0"),
        (cuda_target("2", (7, 5)), None, "cuda-7.5"),
    ],
)
def test_the_lower_precision_is_one_that_the_hardware_has(target: Target, lower: str | None, named: str) -> None:
    assert (target.lower_dtype, target.hardware_class) == (lower, named)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"instruction_sets": ("avx2", "avx512_bf16", "fma", "gfni")}, None),
        ({"instruction_sets": ("avx2", "fma")}, "this CPU lacks avx512_bf16"),
        ({"torch": "2.15.1"}, "it is for torch 2.15.0, here is 2.15.1"),
        ({"machine": "aarch64"}, "it is for machine x86_64"),
        ({"device": "cuda", "capability": "9.0"}, "it is for device cpu"),
    ],
)
def test_code_runs_where_every_instruction_is_known(changes: dict[str, object], reason: str | None) -> None:
    seen = X86.unfit(X86.model_copy(update=changes))
    assert seen == reason or (reason is not None and seen is not None and seen.startswith(reason))


def test_code_for_a_cpu_that_nobody_knows_runs_nowhere() -> None:
    unknown = Target(torch="2", machine="x86_64")
    assert unknown.unfit(unknown) == "the instruction sets of the CPU that it is for are unknown"


def test_instruction_sets_are_those_of_every_core_without_the_kernels_own_flags() -> None:
    text = (
        "processor: 0\nflags\t\t: fpu avx2 bmi1 constant_tsc nopl ssse3\n\nprocessor: 1\nflags\t\t: avx2 ssse3 nopl\n"
    )
    assert parse_instruction_sets(text) == ("avx2", "ssse3")
    assert parse_instruction_sets("Features\t: fp asimd bf16\n") == ("asimd", "bf16", "fp")
    assert parse_instruction_sets("nothing") == ()
    assert cpu_target("2").instruction_sets == instruction_sets()


def test_half_a_percent_may_differ() -> None:
    assert AGREEMENT.suffices
    assert not AGREEMENT.model_copy(update={"agreeing": 198}).suffices
    assert AGREEMENT.figures == "199 of 200 images (99.50%)"


def test_tags_are_read_as_they_were_written_and_malformed_ones_are_passed_over() -> None:
    tags = dict([tag_of(AGREEMENT), tag_of(CODE), ("whimbrel.digest", "sha256:1")])
    assert len(tag_of(CODE)[1]) < 5000
    assert of_tags(tags) == Attestations(agreements=(AGREEMENT,), compiled=(CODE,))
    broken = {"whimbrel.compiled.1": "{", "whimbrel.agreement.2": AGREEMENT.model_dump_json().replace("199", "999")}
    assert of_tags(tags | broken) == of_tags(tags)
    many = {f"whimbrel.compiled.{number}": CODE.model_dump_json() for number in range(100)}
    assert len(of_tags(many).compiled) == attestations.MAX_OF_A_KIND


def test_an_agreement_counts_for_its_hardware_its_torch_and_its_dtype() -> None:
    known = Attestations(agreements=(AGREEMENT,))
    assert known.agreement(X86, "bfloat16") == AGREEMENT
    assert known.agreement(X86, "float16") is None
    assert known.agreement(X86.model_copy(update={"torch": "2.16.0"}), "bfloat16") is None
    assert known.agreement(cuda_target("2.15.0", (9, 0)), "bfloat16") is None


def test_where_code_lies_follows_from_its_digest_alone() -> None:
    assert CODE.path == "compiled/aaaaaaaaaaaaaaaa.pt2"
    with pytest.raises(ValidationError):
        CompiledCode(target=X86, dtype="bfloat16", max_batch=64, sha256="../" * 21 + "a", size=1)
