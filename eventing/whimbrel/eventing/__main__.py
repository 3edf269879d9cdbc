"""`python -m whimbrel.eventing source NAME | sink results | sink dead-letters`, each with its settings."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from whimbrel.core import logs, tracing
from whimbrel.core.errors import SettingsError, WhimbrelError
from whimbrel.core.process_end import leave
from whimbrel.core.settings import load
from whimbrel.eventing import sources

PROGRAM = "python -m whimbrel.eventing"

_log = logging.getLogger("whimbrel.eventing")


def main(arguments: Sequence[str], program: str = PROGRAM) -> int:
    """The exit status: 0 after a graceful stop, 1 when something needed never came, 2 for a wrong setting."""
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(_usage())
        return 0
    try:
        _run(arguments, program)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except WhimbrelError as error:
        _log.error("%s", error)
        return 1
    return 0


def _run(arguments: Sequence[str], caller: str) -> None:
    kind, name, rest = (*arguments[:2], *[""] * (2 - len(arguments[:2])), arguments[2:])
    program = f"{caller} {kind} {name}"
    if kind == "source" and name in source_names():
        source = importlib.import_module(f"{sources.__name__}.{name.replace('-', '_')}")
        settings: Any = load(source.SETTINGS, rest, program=program)
        logs.configure(f"source-{name}", settings.log_level)
        tracing.configure(f"source-{name}")
        from whimbrel.eventing.source_process import run

        run(settings, source.UPSTREAM(settings))
    elif (kind, name) == ("sink", "results"):
        from whimbrel.eventing import results_sink
        from whimbrel.eventing.settings import ResultsSinkSettings

        results = load(ResultsSinkSettings, rest, program=program)
        logs.configure("results-sink", results.log_level)
        tracing.configure("results-sink")
        results_sink.run(results)
    elif (kind, name) == ("sink", "dead-letters"):
        from whimbrel.eventing import dead_letter_sink
        from whimbrel.eventing.settings import DeadLetterSinkSettings

        dead_letters = load(DeadLetterSinkSettings, rest, program=program)
        logs.configure("dead-letter-sink", dead_letters.log_level)
        tracing.configure("dead-letter-sink")
        dead_letter_sink.run(dead_letters)
    else:
        seen = " ".join(arguments[:2]) or "nothing"
        raise SettingsError(f"expected one of {'; '.join(_components())}, seen {seen}; see '{caller} --help'")


def source_names() -> list[str]:
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(sources.__path__)]


def _components() -> list[str]:
    return [*(f"source {name}" for name in source_names()), "sink results", "sink dead-letters"]


def _usage() -> str:
    lines = [f"usage: {PROGRAM} COMPONENT [SETTING ...]", "", "components:"]
    lines += [f"  {component}" for component in _components()]
    lines += ["", f"'{PROGRAM} COMPONENT --help' lists the settings of one, with their defaults."]
    return "\n".join(lines) + "\n"


def end(status: int) -> NoReturn:
    """End this process now."""
    # A thread inside a call to a store that hangs cannot be interrupted, and the interpreter would wait for it;
    # whatever it holds was not acknowledged and comes again.
    tracing.shutdown()
    leave(status)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
