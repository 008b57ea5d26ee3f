"""The five real frames that some tests use where they are there; they are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

KITTI = Path(os.environ.get("KITTI_MINI", Path(__file__).parents[3] / "shared/data/kitti_mini"))

with_real_frames = pytest.mark.skipif(not KITTI.is_dir(), reason="KITTI_MINI names no folder with the real frames")
