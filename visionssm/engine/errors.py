"""What can go wrong for reasons that a user can mend; tools print these without a traceback."""

from __future__ import annotations

from visionssm.data.errors import CheckpointError, DatasetError
from visionssm.extras import MissingExtraError
from visionssm.processes import LostProcessError


class ConfigError(ValueError):
    """A configuration has an unknown key, a wrong value, or contradicts itself or its checkpoint."""


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; the file that was there before is untouched."""


class NonFiniteError(ValueError):
    """The loss or a parameter became NaN or infinite."""


class LoaderError(RuntimeError):
    """A process that loads data ended before its time."""


USER_ERRORS = (
    CheckpointError,
    CheckpointWriteError,
    ConfigError,
    DatasetError,
    FileNotFoundError,
    LoaderError,
    LostProcessError,
    MissingExtraError,
    NonFiniteError,
)
