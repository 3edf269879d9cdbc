"""The networks for digits, linear and convolutional, and how they are fitted; one of them wrongly, on purpose.

Both take what the predictor gives: normalised float (N, 3, 8, 8). The digits are grey, so the channels are averaged.
One thread and fixed seeds: the same network on the same machine every time, whatever else runs there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["linear", "cnn", "shuffled"]

BATCH = 64
WIDTH = 24


@dataclass(frozen=True)
class Images:
    """Normalised pictures (N, 3, 8, 8) float and labels (N,) int64. `black` is a black pixel, normalised."""

    images: Tensor
    labels: Tensor
    black: float


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.scores(images.mean(1).flatten(1))
        return scores


class Cnn(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, width),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 2 * width),
        )
        self.scores = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * width * 16, 10))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.features(images.mean(1, keepdim=True)))
        return scores


def fit(kind: Kind, train: Images, validation: Images, seed: int) -> nn.Module:
    """The network of that kind, fitted, in evaluation mode: the epoch with the least loss on `validation`.

    `shuffled` is a CNN whose labels were mixed up on the way: it loads, answers as fast, and is right by chance.
    """
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "linear":
            return _fitted(Linear(), train, validation, epochs=60, rate=1e-2, shifts=False)
        if kind == "shuffled":
            return _fitted(Cnn(), _shuffled(train), _shuffled(validation), epochs=5, rate=5e-3, shifts=True)
        return _fitted(Cnn(), train, validation, epochs=20, rate=5e-3, shifts=True)


def _fitted(
    network: nn.Module, train: Images, validation: Images, *, epochs: int, rate: float, shifts: bool
) -> nn.Module:
    batches = -(-len(train.labels) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=epochs * batches)
    best, least = network, float("inf")
    for _ in range(epochs):
        network.train()
        for batch in torch.randperm(len(train.labels)).split(BATCH):  # type: ignore[no-untyped-call]
            images = _shifted(train.images[batch], train.black) if shifts else train.images[batch]
            loss = functional.cross_entropy(network(images), train.labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            loss_now = functional.cross_entropy(network(validation.images), validation.labels).item()
        if loss_now <= least:
            best, least = copy.deepcopy(network), loss_now
    return best


def _shuffled(part: Images) -> Images:
    return replace(part, labels=part.labels[torch.randperm(len(part.labels))])


def _shifted(images: Tensor, black: float) -> Tensor:
    """(N, C, 8, 8) -> the same, each picture moved by at most one pixel in each direction."""
    side = images.shape[-1]
    padded = functional.pad(images, (1, 1, 1, 1), value=black)
    corners = torch.randint(0, 3, (len(images), 2)).tolist()
    return torch.stack(
        [picture[:, top : top + side, left : left + side] for picture, (top, left) in zip(padded, corners, strict=True)]
    )


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
