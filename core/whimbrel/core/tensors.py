"""The words of the tensor contract between transformer and predictor (design contract 2)."""

from __future__ import annotations

IMAGES = "images"  # UINT8, (N, H, W, 3), RGB

# Classification: (N, k), best first.
INDICES = "indices"  # INT64
SCORES = "scores"  # FP32
NAMES = "names"  # BYTES, UTF-8: the labels of the package that answered, so that no answer is read with another's

# Parameters of a request.
PRESET_DIGEST = "preset_digest"  # which preset the tensor was prepared by
TOP_K = "top_k"
TIMEOUT = "timeout"  # microseconds from arrival, as Triton has it; after it nobody waits for the answer

# Parameters of a response; in a request, the version names the one that is asked.
MODEL_VERSION = "model_version"
MODEL_DIGEST = "model_digest"

# The header by which a request and its event are followed through logs.
REQUEST_ID_HEADER = "x-request-id"

# What a V1 answer has no field for: headers of the response.
VERSION_HEADER = "x-whimbrel-model-version"
DIGEST_HEADER = "x-whimbrel-model-digest"

# How long the caller waits for the answer, in milliseconds from arrival; Envoy sets it by itself.
TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
