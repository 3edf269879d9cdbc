"""The transformer's settings and process: KServe's spellings, one line for what is wrong, and no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from testbed.processes import environment
from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import load
from whimbrel.transformers.connect import inference
from whimbrel.transformers.grpc_inference import GrpcInference
from whimbrel.transformers.rest_inference import RestInference
from whimbrel.transformers.settings import TransformerSettings

NEEDED = ["--model_name", "digits", "--predictor_host", "digits-predictor.default"]


def loaded(*arguments: str) -> TransformerSettings:
    return load(TransformerSettings, [*NEEDED, *arguments], program="transformer")


def test_reads_what_kserve_passes() -> None:
    settings = loaded("--http_port", "8080", "--workers=1", "--predictor_request_timeout_seconds", "600")
    assert (settings.model_name, settings.predictor_host) == ("digits", "digits-predictor.default")
    assert (settings.http_port, settings.predictor_request_timeout_seconds) == (8080, 600.0)
    assert settings.predictor_protocol == "v2"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--predictor-host", "http://x"], r"WHIMBREL_PREDICTOR_HOST \(--predictor-host\): .* seen 'http://x'"),
        (["--predictor-protocol", "v1"], r"WHIMBREL_PREDICTOR_PROTOCOL .* 'v2' or 'grpc-v2'.* seen 'v1'"),
        (["--workers", "2"], r"WHIMBREL_WORKERS .* less than or equal to 1, seen '2'"),
        (
            ["--image-formats", "jpeg,svg"],
            r"WHIMBREL_IMAGE_FORMATS .* one or more of jpeg, png, webp, gif, bmp, tiff, seen 'jpeg,svg'",
        ),
        (["--image-background", "red"], "WHIMBREL_IMAGE_BACKGROUND"),
        (["--model", "letters=http://x"], r"WHIMBREL_MODEL \(--model\): expected NAME or NAME=HOST"),
        (["--model", "digits"], "expected each name once, seen 'digits' again"),
        (["--byte-budget", "1000"], "byte_budget: expected at least image_max_bytes"),
    ],
)
def test_a_wrong_setting_is_named(arguments: list[str], line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        loaded(*arguments)


def test_the_background_is_a_colour() -> None:
    assert loaded("--image-background", "#0a10Ff").background == (10, 16, 255)


def test_the_protocol_chooses_the_client() -> None:
    rest, over_grpc = loaded(), loaded("--predictor-protocol", "grpc-v2")
    assert isinstance(inference(rest, rest.predictors[0]), RestInference)
    assert isinstance(inference(over_grpc, over_grpc.predictors[0]), GrpcInference)


def test_more_models_have_the_first_ones_predictor_or_their_own() -> None:
    settings = loaded("--model", "letters", "--model", "shapes=shapes-predictor.default:8080")
    assert [(each.model_name, each.host) for each in settings.predictors] == [
        ("digits", "digits-predictor.default"),
        ("letters", "digits-predictor.default"),
        ("shapes", "shapes-predictor.default:8080"),
    ]


def test_a_missing_setting_ends_the_start_with_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "whimbrel.transformers", "--model-name", "digits"],
        env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "setting WHIMBREL_PREDICTOR_HOST (--predictor-host): missing (HOST or HOST:PORT of the predictor); set it"
    ]


def test_it_imports_no_torch() -> None:
    program = (
        "import sys, whimbrel.transformers.service, whimbrel.transformers.grpc_inference\n"
        "assert 'PIL' in sys.modules and 'torch' not in sys.modules, 'torch was imported'"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
