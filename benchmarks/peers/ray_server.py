"""Ray Serve: one replica with `serve.batch`; the pixels are the body."""

from __future__ import annotations

import os
from pathlib import Path

import ray
from peers.network import MAX_BATCH_SIZE, MAX_DELAY_SECONDS, Answer, Classifier, port
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request


class Model:
    def __init__(self) -> None:
        self.classifier = Classifier()

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=MAX_DELAY_SECONDS)
    async def classified(self, bodies: list[bytes]) -> list[Answer]:
        return self.classifier.classify([self.classifier.image(body) for body in bodies])

    async def __call__(self, request: Request) -> Answer:
        answer: Answer = await self.classified(await request.body())
        return answer


if __name__ == "__main__":
    ray.init(
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level="warning",
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(Path.cwd()),  # which goes with this process
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port()))
    deployed = serve.deployment(num_replicas=1, max_ongoing_requests=2 * MAX_BATCH_SIZE)(Model)
    serve.run(deployed.bind(), blocking=True)
