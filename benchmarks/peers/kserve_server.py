"""A KServe custom predictor in the way of KServe's documentation: one image a request, all of it in `predict`.

Its page decodes base64 with Pillow, and transforms and computes on the event loop, without batches and without
switching gradients off; pixels that were decoded elsewhere come as its V2 tensors, over REST in their binary form.
"""

from __future__ import annotations

import base64
import io
import logging
from typing import Any

import torch
from kserve import InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import get_predict_response
from peers.network import TOP_K, Classifier, port
from PIL import Image
from torchvision import transforms


class CustomModel(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        self.classifier = Classifier()
        self.ready = True
        return True

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        if isinstance(payload, InferRequest):
            image = Image.fromarray(payload.inputs[0].as_numpy()[0])
            sizes = []
        else:
            image = Image.open(io.BytesIO(base64.b64decode(payload["instances"][0]["image"]["b64"])))
            sizes = [transforms.Resize(self.classifier.resize_size), transforms.CenterCrop(self.classifier.shape[:2])]
        normalize = transforms.Normalize(mean=self.classifier.mean, std=self.classifier.std)
        preprocess = transforms.Compose([*sizes, transforms.ToTensor(), normalize])
        output = torch.nn.functional.softmax(self.classifier.module(preprocess(image).unsqueeze(0)), dim=1)
        scores, indices = torch.topk(output, TOP_K)
        if isinstance(payload, InferRequest):
            # one output, as the documentation's: (1, 2, k), scores above indices
            return get_predict_response(payload, torch.stack([scores, indices], dim=1).detach().numpy(), self.name)
        return {"predictions": [{"indices": indices[0].tolist(), "scores": scores[0].tolist()}]}


if __name__ == "__main__":
    logging.getLogger("kserve").setLevel(logging.WARNING)
    ModelServer(http_port=port(), enable_grpc=False, workers=1, access_log_format=None).start([CustomModel("m")])
