"""The task that a package names: ours, or one that is installed and that the operator allows.

A package is data and may not choose code to run. So a task of one's own is an entry point of the group `whimbrel.tasks`
of an installed distribution, and is imported only when the setting `allowed_tasks` has its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

from whimbrel.core.errors import PackageRefused, SettingsError
from whimbrel.core.tensors import CLASSIFICATION, DETECTION, POSE
from whimbrel.predictors.network import Description
from whimbrel.predictors.tasks.classification import Classification
from whimbrel.predictors.tasks.detection import Detection
from whimbrel.predictors.tasks.pose import Pose
from whimbrel.predictors.tasks.task import Task

GROUP = "whimbrel.tasks"
TASKS: Mapping[str, type[Task]] = {CLASSIFICATION: Classification, DETECTION: Detection, POSE: Pose}


def task_of(description: Description, allowed: Sequence[str] = ()) -> Task:
    """`allowed`: names of entry points. Raises PackageRefused for another task, SettingsError for one that is allowed
    and not installed, or no task."""
    known = TASKS.get(description.task)
    if known is not None:
        return known(description)
    if description.task not in allowed:
        raise PackageRefused(
            f"expected a package for one of the tasks {', '.join([*TASKS, *allowed])}, seen {description.task!r}; "
            "WHIMBREL_ALLOWED_TASKS (--allowed-tasks) allows installed ones"
        )
    return _installed(description.task)(description)


def _installed(name: str) -> type[Task]:
    found = list(entry_points(group=GROUP, name=name))
    where = f"setting WHIMBREL_ALLOWED_TASKS (--allowed-tasks): expected an installed task {name!r}"
    if len(found) != 1:
        raise SettingsError(f"{where}, seen {len(found)} entry points of that name in the group {GROUP}")
    try:
        task = found[0].load()
    except Exception as error:  # whatever a foreign module raises
        raise SettingsError(f"{where}, seen {found[0].value} that fails: {type(error).__name__}: {error}") from error
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise SettingsError(f"{where}, seen {found[0].value}, which is no class below {Task.__module__}.Task")
    return task
