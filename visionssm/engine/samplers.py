"""Repeated augmentation: several views of an image in the same step (Hoffer et al. 2020, arXiv 1901.09335)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from timm.data.distributed_sampler import RepeatAugSampler

from visionssm.data.seeding import Repeat, mixed_seed


@DATA_SAMPLERS.register_module()
class RepeatedAugmentationSampler(RepeatAugSampler):
    """timm's sampler in MMEngine's data loader: an epoch shows 1/`num_repeats` of the images, each so many times.

    The views of an image stand one behind the other, so that with several processes they go to different ones. An
    epoch has as many steps as without repetition. The order is a function of seed and epoch, and each view is augmented
    by a seed of its own (see `visionssm.data.seeding`), so a run can be resumed anywhere.

    Args:
        dataset: of images that can be taken by index.
        num_repeats: views of an image.
        shuffle: a new order every epoch.
        selected_round: the images of an epoch are rounded down to a multiple of it, as published; 0 for all of them, as
            where there are fewer.
        seed: MMEngine's, the same in all processes.
    Raises:
        ValueError: `num_repeats` is less than 1 or more than there are images.
    """

    def __init__(
        self,
        dataset: Any,
        num_repeats: int = 3,
        shuffle: bool = True,
        selected_round: int = 256,
        seed: int | None = None,
    ) -> None:
        if not 1 <= num_repeats <= len(dataset):
            raise ValueError(f"num_repeats={num_repeats} must be from 1 to {len(dataset)}, the number of images")
        rank, world_size = get_dist_info()
        super().__init__(
            dataset,
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            num_repeats=num_repeats,
            selected_round=selected_round if selected_round <= len(dataset) else 0,  # or older timm takes none
        )
        self.seed = seed or 0
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        super().set_epoch(mixed_seed(self.seed, epoch))  # timm's seed is the epoch alone

    def __iter__(self) -> Iterator[Repeat]:
        for number, index in enumerate(super().__iter__()):
            yield Repeat(index, (self.rank + number * self.num_replicas) % self.num_repeats)
