"""The only door to KServe's SDK: what the rooms use of it, imported without its two side effects.

`import kserve` parses sys.argv (and exits on an argument that it does not like), and through pandas loads pyarrow
where that is installed: 35 MB resident that nothing here uses. So import these names from here, never from kserve.
The SDK imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _without_side_effects() -> Iterator[None]:
    modules: dict[str, Any] = sys.modules
    arguments, keeps_pyarrow_out = sys.argv, "pyarrow" not in modules
    sys.argv = sys.argv[:1]
    if keeps_pyarrow_out:
        modules["pyarrow"] = None  # what an import of it meets is ImportError, and pandas does without
    try:
        yield
    finally:
        sys.argv = arguments
        if keeps_pyarrow_out:
            del modules["pyarrow"]


with _without_side_effects():
    from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelRepository
    from kserve.errors import (
        InvalidInput,
        ModelNotFound,
        ModelNotReady,
        ServerNotLive,
        ServerNotReady,
        UnsupportedProtocol,
    )
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
        GRPCInferenceServiceStub,
        add_GRPCInferenceServiceServicer_to_server,
    )
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.infer_type import RequestedOutput, to_http_parameters
    from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
    from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
    from kserve.utils.numpy_codec import to_np_dtype

__all__ = [
    "DataPlane",
    "GRPCInferenceServiceStub",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceServicer",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelRepository",
    "RequestedOutput",
    "ServerNotLive",
    "ServerNotReady",
    "UnsupportedProtocol",
    "add_GRPCInferenceServiceServicer_to_server",
    "register_v1_endpoints",
    "register_v2_endpoints",
    "to_http_parameters",
    "to_np_dtype",
]
