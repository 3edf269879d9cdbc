"""`python -m whimbrel.predictors`: serve the versions of its models until SIGTERM."""

from __future__ import annotations

import gc
import logging
import os
import sys

from whimbrel.core.process_end import run_program

# Rounds that torch's threads on the CPU spin for work, some 0.1 ms. By default it is 5 ms at each layer, while the
# thread that would bring the work waits for their core: on a busy machine a batch then takes ten times as long.
_SPINS = "10000"


def main() -> int:
    """0: stopped and everything accepted was answered; 1: could not start; 2: a setting is wrong."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch is imported
    gc.disable()  # collections while modules are imported find nothing and take a sixth of the time of the imports
    from whimbrel.core import logs, tracing
    from whimbrel.core.errors import SettingsError, WhimbrelError
    from whimbrel.core.model_server import run
    from whimbrel.core.settings import load
    from whimbrel.predictors import memory
    from whimbrel.predictors.ensemble import EnsembleModel
    from whimbrel.predictors.inference_requests import RequestLimits
    from whimbrel.predictors.model import PredictorModel
    from whimbrel.predictors.repository import repository_routes
    from whimbrel.predictors.settings import PredictorSettings
    from whimbrel.predictors.start import serving

    memory.keep_for_the_next_batch()
    try:
        settings = load(PredictorSettings, sys.argv[1:], program="whimbrel.predictors")
        tracing.configure("predictor")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure("predictor", settings.log_level)
    limits = RequestLimits(settings.max_images_per_request, settings.top_k, settings.score_threshold)
    models = {named.name: PredictorModel(named.name, limits) for named in settings.models}
    ensembles = [EnsembleModel(named, models, limits) for named in settings.ensemble]
    served: list[PredictorModel | EnsembleModel] = [*models.values(), *ensembles]
    routes = repository_routes(served, settings)
    try:
        run(served, settings, routes=routes, lifespan=lambda: serving(models, ensembles, settings))
    except WhimbrelError as error:
        logging.getLogger("whimbrel.predictors").error("cannot start: %s", error)
        return 2 if isinstance(error, SettingsError) else 1
    return 0


if __name__ == "__main__":
    run_program(main)
