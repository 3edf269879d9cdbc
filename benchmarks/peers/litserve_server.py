"""LitServe: a LitAPI whose requests are joined by `max_batch_size` and `batch_timeout`; the image as a form's file."""

# LitServe reads the annotations of `decode_request` as objects: no `from __future__ import annotations` here.
import litserve
import torch
from fastapi import Request
from peers.network import MAX_BATCH_SIZE, MAX_DELAY_SECONDS, Answer, Classifier, port


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier()

    def decode_request(self, request: Request) -> torch.Tensor:
        return self.classifier.image(request["image"].file.read())

    def batch(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return inputs

    def predict(self, images: list[torch.Tensor]) -> list[Answer]:
        return self.classifier.classify(images)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output: Answer) -> Answer:
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=MAX_DELAY_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=port(), num_api_servers=1, generate_client_file=False, log_level="warning")
