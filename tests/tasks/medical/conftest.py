"""Tests of the task need the extra "medical"."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if all(map(find_spec, ("monai", "nibabel", "nilearn", "h5py"))) else ["test_*.py"]
