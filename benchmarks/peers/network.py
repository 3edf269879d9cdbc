"""The network as every peer serves it: the same weights file, the same arithmetic on a batch, the same answer.

Runs in the environment of a peer, which has torch, torchvision and safetensors, and none of this project.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torchvision import models

TOP_K = 5
MAX_BATCH_SIZE = 32
MAX_DELAY_SECONDS = 0.01

Answer = dict[str, list[float]]


def port() -> int:
    return int(os.environ["PEER_PORT"])


class Classifier:
    """Of the model package in $PEER_PACKAGE, with $OMP_NUM_THREADS threads."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        folder = Path(os.environ["PEER_PACKAGE"])
        manifest: dict[str, Any] = json.loads((folder / "model.json").read_text())
        preset = manifest["preset"]
        self.shape = (preset["height"], preset["width"], 3)
        self.mean, self.std = preset["mean"], preset["std"]
        self.resize_size = preset["resize_size"]
        self.module: torch.nn.Module = models.get_model(manifest["architecture"].removeprefix("torchvision:"))
        self.module.load_state_dict(load_file(folder / "model.safetensors"))
        self.module.eval()

    def image(self, content: bytes | bytearray) -> torch.Tensor:
        """Raw pixels, (H, W, 3) uint8."""
        return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(self.shape)

    @torch.inference_mode()
    def classify(self, images: Sequence[torch.Tensor]) -> list[Answer]:
        """`images`: (H, W, 3) uint8 each."""
        pixels = torch.stack(list(images)).permute(0, 3, 1, 2).float().contiguous()  # (N, H, W, 3) -> (N, 3, H, W)
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.std))
        logits = self.module(pixels.div_(255).sub_(mean).div_(std))
        scores, indices = logits.softmax(dim=1).topk(TOP_K, dim=1)
        return [
            {"indices": rows, "scores": values} for rows, values in zip(indices.tolist(), scores.tolist(), strict=True)
        ]
