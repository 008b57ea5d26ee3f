"""Importing this module registers the engine's parts and the types of all tasks whose packages are installed."""

from __future__ import annotations

import visionssm.engine.registration
import visionssm.tasks  # noqa: F401
from visionssm.engine.task import all_tasks
from visionssm.engine.types import register_types
from visionssm.extras import MissingExtraError

for _task in all_tasks():
    try:
        register_types(_task)
    except MissingExtraError:
        continue
