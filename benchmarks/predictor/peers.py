"""Ours, a naive KServe predictor and the field's servers over the same weights, in turn, round after round."""

from __future__ import annotations

from predictor import plot
from predictor.contenders import checks_of, contenders, measure
from predictor.figures import BARE, CONCURRENCIES, Seen, rates_table, ratios_table, said
from predictor.measured import IMAGES, Setting, bare, bare_network, conditions
from predictor.registered import registered, store_in

from testbed.stores import Store
from whimbrel.core.package import Package


def section(setting: Setting) -> list[str]:
    with store_in(setting.folder) as store:
        seen = {name: _measured(name, package, setting, store) for name, package in setting.packages.items()}
    picture = plot.draw_peers(
        {
            name: {who: each.rates for who, each in servers.items() if each.failure is None}
            for name, servers in seen.items()
        }
    )
    tables = [
        line
        for name, servers in seen.items()
        for line in (*rates_table(name, servers), "", *ratios_table(name, servers), "")
    ]
    condition = "float32 but for dtype auto, uint8 224 x 224 in, one worker, peers' batches: at most 32, waiting 10 ms"
    return [conditions(setting, condition), "", *tables, f"![Images a second by server and concurrency]({picture})"]


def _measured(name: str, package: Package, setting: Setting, store: Store) -> dict[str, Seen]:
    network = bare_network(package)
    field = contenders(registered(name, package, store, setting.folder), store)
    checks = checks_of(network, IMAGES)
    seen = {BARE: Seen("nobody"), **{contender.name: Seen(contender.asked) for contender in field}}
    for number in range(setting.rounds):
        for clients in CONCURRENCIES:
            seen[BARE].rates.setdefault(clients, []).append(bare(network, clients, setting.seconds)[0])
        for contender in field:
            measure(contender, package, setting, checks=checks, seen=seen[contender.name])
            print(f"round {number + 1} of {setting.rounds}, {contender.name}: {said(seen[contender.name])}", flush=True)
    network.close()
    return seen
