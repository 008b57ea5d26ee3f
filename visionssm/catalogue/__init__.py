"""Every model of the package in one list: what is published of it, what is counted here, and how its weights come."""

from visionssm.catalogue.info import ModelInfo
from visionssm.catalogue.listing import TASKS, entries, list_models, model_info

__all__ = ["TASKS", "ModelInfo", "entries", "list_models", "model_info"]
