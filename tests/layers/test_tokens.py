"""Patches, and position tables for other grids."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from visionssm.layers.tokens import PatchEmbedding, insert_token, resample_positions


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16), st.integers(1, 20))
def test_grid_size_is_that_of_the_convolution(rows: int, columns: int, patch_size: int, stride: int) -> None:
    height, width = patch_size + rows, patch_size + columns
    embedding = PatchEmbedding(1, 1, patch_size=patch_size, stride=stride, device="meta")
    patches = embedding(torch.zeros(1, 1, height, width, device="meta"))
    assert patches.shape[1:3] == embedding.grid_size((height, width))


def test_patches_equal_an_unfolded_matrix_product() -> None:
    torch.manual_seed(0)
    embedding = PatchEmbedding(3, 5, patch_size=4, stride=2)
    image = torch.randn(2, 3, 11, 8)
    unfolded = F.unfold(image.double(), 4, stride=2).transpose(1, 2)
    expected = (unfolded @ embedding.proj.weight.double().flatten(1).T).view(2, 4, 3, 5)
    torch.testing.assert_close(embedding(image).double(), expected, rtol=1e-4, atol=1e-5)


def test_an_image_smaller_than_a_patch_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"15x40 pixels is smaller than one patch.*16x16"):
        PatchEmbedding(3, 4, patch_size=16, stride=16)(torch.zeros(1, 3, 15, 40))


def test_the_same_grid_returns_the_table_itself() -> None:
    table = torch.randn(1, 13, 2)
    assert resample_positions(table, (3, 4), (3, 4), (6, 6)) is table


@pytest.mark.parametrize("old,new", [((4, 4), (8, 8)), ((3, 5), (5, 3)), ((14, 14), (27, 27)), ((6, 4), (3, 2))])
def test_the_class_entry_moves_unchanged_and_the_patches_are_resampled_as_a_map(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    patches, class_entry = torch.randn(1, old[0] * old[1], 3), torch.full((1, 1, 3), 100.0)
    old_slot, new_slot = old[0] * old[1] // 2, new[0] * new[1] // 2
    table = insert_token(patches, class_entry, old_slot)
    resampled = resample_positions(table, old, new, (old_slot, new_slot))
    torch.testing.assert_close(resampled[:, new_slot : new_slot + 1], class_entry)
    rest = torch.cat([resampled[:, :new_slot], resampled[:, new_slot + 1 :]], dim=1)
    maps = F.interpolate(patches.view(1, *old, 3).permute(0, 3, 1, 2), new, mode="bicubic", align_corners=False)
    torch.testing.assert_close(rest, maps.permute(0, 2, 3, 1).flatten(1, 2))


def test_slot_zero_of_the_authors_fine_tuning_is_another_layout() -> None:
    grid, finer = (4, 4), (8, 8)
    rows = torch.arange(4.0).repeat_interleave(4).view(1, 16, 1)  # each patch's entry is its row
    table = insert_token(rows, torch.full((1, 1, 1), 50.0), 8)
    ours = resample_positions(table, grid, finer, (8, 32))
    authors = resample_positions(table, grid, finer, (0, 0))
    assert ours[0, :32].max() <= 1.75
    assert authors[0].max() > 25  # the middle token's entry was resampled as if it were a patch


def test_a_table_without_class_token_is_resampled_whole() -> None:
    table = torch.ones(1, 6, 2)
    assert resample_positions(table, (2, 3), (4, 5)).shape == (1, 20, 2)
    torch.testing.assert_close(resample_positions(table, (2, 3), (4, 5)), torch.ones(1, 20, 2))


def test_table_in_float64_is_resampled_in_float64_and_of_half_precision_in_float32() -> None:
    table = torch.randn(1, 16, 3, dtype=torch.float64)
    maps = table.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = F.interpolate(maps, size=(5, 7), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(resample_positions(table, (4, 4), (5, 7)), expected, rtol=0, atol=1e-12)
    half = resample_positions(table.half(), (4, 4), (5, 7))
    assert torch.equal(half, resample_positions(table.half().float(), (4, 4), (5, 7)).half())
