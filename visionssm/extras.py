"""Packages that only some extras install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_EXTRAS = {
    **dict.fromkeys(("mmcv", "mmdet", "mmseg"), "openmmlab"),
    **dict.fromkeys(("monai", "nibabel", "nilearn", "h5py"), "medical"),
}


class MissingExtraError(ImportError):
    """A package of an optional extra is not installed."""


def extra_of(package: str | None) -> str | None:
    """The extra that installs a package which configurations may import, None if no extra is for it."""
    return _EXTRAS.get(package or "")


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Say which extra to install where an import in this block fails.

    Args:
        extra: name of the extra.
        what: needs it, as the beginning of the sentence.
    Raises:
        MissingExtraError: (an ImportError) a module is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{what} needs {error.name}: pip install 'visionssm[{extra}]'") from error
