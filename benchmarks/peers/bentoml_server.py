"""BentoML: a service with a batchable API over pictures, its documented type for them; PPM is their raw pixels."""

from __future__ import annotations

import bentoml
import numpy as np
import torch
from peers.network import MAX_BATCH_SIZE, Answer, Classifier, port
from PIL.Image import Image


@bentoml.service(workers=1, threads=1, traffic={"timeout": 120})
class Model:
    def __init__(self) -> None:
        self.classifier = Classifier()

    # max_latency_ms is no delay: requests that would take longer are refused. Its default is kept.
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE)
    def classify(self, images: list[Image]) -> list[Answer]:
        return self.classifier.classify([torch.from_numpy(np.array(image.convert("RGB"))) for image in images])


if __name__ == "__main__":
    from bentoml_cli.cli import cli

    cli(["serve", "peers.bentoml_server:Model", "--host", "127.0.0.1", "--port", str(port())])
