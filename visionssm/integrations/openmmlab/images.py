"""mmcv's image loader, reading as everything else here reads: `read_image` decides what the pixels are.

mmcv's own loader drops what transparency hides, takes the upper eight bits of 16 and refuses what OpenCV does not know,
so that a model would be trained on other pixels than `tools/predict.py` shows it.
"""

from __future__ import annotations

import io
from typing import Any

import mmcv.transforms
import mmcv.transforms.loading
import numpy as np
from mmcv.transforms.loading import LoadImageFromFile as _MmcvLoader
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from visionssm.data.images import MAX_DECODED_PIXELS, Mode, read_image

_READINGS: dict[str, tuple[Mode, bool]] = {
    "color": ("RGB", True),
    "grayscale": ("L", True),
    "color_ignore_orientation": ("RGB", False),
    "grayscale_ignore_orientation": ("L", False),
}
"""What mmcv's `color_type` means: mode, and whether the EXIF orientation is applied."""


class LoadImageFromFile(_MmcvLoader):
    """mmcv's transform of this name, with `visionssm.data.images.read_image` in place of OpenCV.

    Keys and arguments are mmcv's. `color_type="unchanged"` and other values of `imdecode_backend` than "cv2" are left
    to mmcv, as they ask for something else.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load `img` (H, W, 3) BGR or (H, W) uint8, or float32, with its `img_shape` and `ori_shape`.

        Returns:
            None for a file that cannot be read, with `ignore_empty`: the data set then takes another image.
        Raises:
            UnreadableImageError: naming the file and what is wrong with it.
        """
        if self.imdecode_backend != "cv2" or self.color_type not in _READINGS:
            return super().transform(results)
        mode, upright = _READINGS[self.color_type]
        try:
            file = io.BytesIO(self._content(results["img_path"]))
            file.name = results["img_path"]
            image = np.asarray(read_image(file, mode, max_pixels=MAX_DECODED_PIXELS, upright=upright))
        except Exception:
            if self.ignore_empty:
                return None
            raise
        image = np.ascontiguousarray(image[..., ::-1] if mode == "RGB" else image)
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _content(self, path: str) -> bytes:
        if self.file_client_args is not None:
            return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        return fileio.get(path, backend_args=self.backend_args)


def provide_image_loader() -> None:
    """Give mmcv's name to `LoadImageFromFile`: in the registry, and for later imports from `mmcv.transforms`."""
    TRANSFORMS.register_module("LoadImageFromFile", force=True, module=LoadImageFromFile)
    for module in (mmcv.transforms, mmcv.transforms.loading):
        module.LoadImageFromFile = LoadImageFromFile
