"""Asks another maker's predictor over V2 gRPC."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from whimbrel.core.errors import Unavailable
from whimbrel.core.kserve_sdk import InferInput, InferRequest, RequestedOutput
from whimbrel.transformers.contract import DATATYPES, Contract
from whimbrel.transformers.grpc_calls import GrpcCalls, array_of


class GrpcExchange:
    """`ModelInfer` with one tensor in raw contents."""

    def __init__(self, calls: GrpcCalls, contract: Contract, model_name: str) -> None:
        self._calls, self._contract, self._model_name = calls, contract, model_name

    async def ask(self, tensor: NDArray[Any], key: str) -> tuple[NDArray[Any], str | None]:
        pixels = InferInput(self._contract.input, list(tensor.shape), DATATYPES[self._contract.dtype])
        pixels.set_data_from_numpy(tensor, binary_data=True)
        response = await self._calls.infer(
            InferRequest(
                model_name=self._model_name,
                infer_inputs=[pixels],
                request_id=key,
                request_outputs=[RequestedOutput(self._contract.output)],
            ),
            key,
        )
        for output in response.outputs:
            scores = array_of(output)
            if output.name == self._contract.output and scores is not None:
                return scores, response.model_version or None
        seen = ", ".join(repr(output.name) for output in response.outputs) or "none"
        raise Unavailable(
            f"expected the output {self._contract.output!r} from the predictor, seen {seen}; see predictor_contract"
        )

    async def close(self) -> None:
        await self._calls.close()
