"""Who is measured in one run: ours and its peers, each served, asked and checked the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from clients import Form, answer_of, asked, rate_of, v2_binary
from peers.catalog import PEERS, Peer
from peers.environments import NotInstalled
from peers.process import NotStarted, serving
from predictor.figures import AUTO, BY_CODE, CONCURRENCIES, OURS, Seen
from predictor.measured import THREADS, Setting
from predictor.process import computing_of, predictor
from predictor.registered import Pointers, following

from testbed.stores import Store
from whimbrel.core.package import Package
from whimbrel.core.tensors import INDICES, SCORES
from whimbrel.predictors.network import Images, Network


class WrongAnswer(Exception):
    """One line: what a contender answers, and what it should."""


@dataclass(frozen=True)
class Contender:
    """`asked`: by which protocol and form, for the table. `version`: of the one at a port. `tolerance`: of its scores,
    as a share."""

    name: str
    asked: str
    form: Callable[[Images], Form]
    serve: Callable[[Package, Form], AbstractContextManager[int]]
    version: Callable[[int], str]
    tolerance: float = 0.01


def contenders(pointers: Pointers, store: Store) -> list[Contender]:
    """`pointers`, in `store`, lead to the package that all are asked about."""
    ours = [_ours(OURS, {}), _ours(AUTO, following(pointers.plain, pointers.cache), store, tolerance=0.1)]
    if pointers.compiled is not None:
        ours.append(_ours(BY_CODE, following(pointers.compiled, pointers.cache), store, tolerance=0.1))
    return [*ours, *map(_peer, PEERS)]


def _ours(name: str, settings: Mapping[str, str], store: Store | None = None, tolerance: float = 0.01) -> Contender:
    environment = store.settings_environment if store is not None else {}

    @contextmanager
    def serve(package: Package, _: Form) -> Iterator[int]:
        with predictor(package, {"torch_threads": str(THREADS), **settings}, environment) as served:
            yield served.port

    return Contender(name, "V2 REST, binary tensor", v2_binary, serve, computing_of, tolerance)


def _peer(peer: Peer) -> Contender:
    def serve(package: Package, form: Form) -> AbstractContextManager[int]:
        return serving(peer, package.folder, THREADS, form)

    return Contender(peer.name, peer.asked, peer.form, serve, lambda _: peer.version())


def measure(
    contender: Contender,
    package: Package,
    setting: Setting,
    *,
    checks: Sequence[Check],
    seen: Seen,
) -> None:
    """One round of a contender: started, checked, warmed up and asked by so many clients at once.

    One that fails is left out from then on, and `seen` says why.
    """
    if seen.failure is not None:
        return
    form = contender.form(checks[0].image)
    try:
        with contender.serve(package, form) as port:
            seen.version = contender.version(port)
            for check in checks:
                check.pass_or_raise(contender, port)
            for count in CONCURRENCIES:
                images_a_second, unanswered = rate(form, port, count, setting)
                if not images_a_second:
                    raise WrongAnswer(f"not measured: no answer to {count} at once")
                seen.unanswered += unanswered
                seen.rates.setdefault(count, []).append(images_a_second)
    except (NotInstalled, NotStarted, WrongAnswer) as error:
        seen.failure = str(error)


def rate(form: Form, port: int, clients: int, setting: Setting) -> tuple[float, int]:
    """Images a second that were answered, after a warm-up, and how many were not."""
    asked(form, port, clients, setting.seconds / 3)
    answers = asked(form, port, clients, setting.seconds)
    answered = [each for each in answers if each.status == 200]
    return rate_of(answered) if answered else 0.0, len(answers) - len(answered)


@dataclass(frozen=True)
class Check:
    """An image whose best class the bare loop knows."""

    image: Images
    best: int
    score: float

    def pass_or_raise(self, contender: Contender, port: int) -> None:
        """Raises WrongAnswer."""
        seen = answer_of(contender.form(self.image), port)
        right = seen is not None and seen[0] == self.best
        if seen is None or not right or abs(seen[1] - self.score) > contender.tolerance * self.score:
            raise WrongAnswer(f"not measured: expected class {self.best} at {self.score:.4f}, seen {seen}")


def checks_of(network: Network, images: Sequence[Images]) -> list[Check]:
    answers = [network.infer(image, 1) for image in images]
    return [
        Check(image, int(answer[INDICES][0, 0]), float(answer[SCORES][0, 0]))
        for image, answer in zip(images, answers, strict=True)
    ]
