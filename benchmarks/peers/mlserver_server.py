"""MLServer: a custom runtime with adaptive batching; the pixels over gRPC, its only protocol with raw tensors."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from peers.network import MAX_BATCH_SIZE, MAX_DELAY_SECONDS, Classifier, port


class Runtime(MLModel):
    async def load(self) -> bool:
        self.classifier = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = torch.from_numpy(np.array(NumpyCodec.decode_input(payload.inputs[0])))  # (N, H, W, 3)
        answers = self.classifier.classify(list(images))
        indices, scores = (np.array([answer[name] for answer in answers]) for name in ("indices", "scores"))
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("indices", indices.astype(np.int64)),
                NumpyCodec.encode_output("scores", scores.astype(np.float32)),
            ],
        )


def write_settings(folder: Path) -> None:
    server = {
        "host": "127.0.0.1",
        "http_port": int(os.environ["PEER_SECOND_PORT"]),
        "grpc_port": port(),
        "metrics_endpoint": None,
        "parallel_workers": 1,
        "debug": False,
    }
    model = {
        "name": "m",
        "implementation": "peers.mlserver_server.Runtime",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": MAX_DELAY_SECONDS,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    from mlserver.cli import main

    with tempfile.TemporaryDirectory() as folder:
        write_settings(Path(folder))
        sys.argv = ["mlserver", "start", folder]
        main()
