"""What every test of mmdet and mmseg needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def same_scope_afterwards() -> Iterator[None]:
    """Other tests find MMEngine's default scope as it was."""
    from mmengine.registry import DefaultScope

    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)
