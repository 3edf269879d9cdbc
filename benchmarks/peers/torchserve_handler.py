"""TorchServe's custom handler: a batch of bodies in, one answer each."""

from __future__ import annotations

from typing import Any

from peers.network import Answer, Classifier
from ts.torch_handler.base_handler import BaseHandler


class Handler(BaseHandler):
    def initialize(self, context: Any) -> None:
        self.classifier = Classifier()
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Answer]:
        return self.classifier.classify([self.classifier.image(row.get("body") or row["data"]) for row in data])
