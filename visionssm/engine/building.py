"""What a wrong value in a configuration makes a constructor raise becomes one error, which names the section."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from visionssm.engine.errors import USER_ERRORS, ConfigError

_LONGEST = 300


@contextmanager
def building(section: str) -> Iterator[None]:
    """Build a section of the configuration; the innermost of nested blocks names itself.

    Raises:
        ConfigError: whatever the block raises that is not told as it is.
    """
    try:
        yield
    except USER_ERRORS:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError) as error:
        told = " ".join(str(error).split())
        short = told if len(told) <= _LONGEST else told[:_LONGEST] + " …"
        raise ConfigError(f"{section} cannot be built from the config: {type(error).__name__}: {short}") from error
