"""Finding objects in sweeps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from visionssm.checkpoints import CheckpointError
from visionssm.data.images import MAX_DECODED_PIXELS, read_image
from visionssm.drawing import save_picture
from visionssm.engine.description import (
    arguments_of,
    check_fields,
    class_names_of,
    description_of,
    fields_of,
    rebuilt,
)
from visionssm.engine.task import Row, Source
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.variants import VARIANTS, create_detector
from visionssm.tasks.pointcloud.kitti import (
    IMAGE_SIZE,
    Calibration,
    labels_of_boxes,
    read_calibration,
    read_points,
    write_labels,
)
from visionssm.tasks.pointcloud.pictures import (
    colours_of,
    draw_above,
    draw_on_image,
    seen_from_above,
    view_of,
    with_classes,
)

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class Camera:
    """What the sweeps are shown on beside the view from above.

    Attributes:
        calibration: of the camera.
        image: its picture, or None.
    """

    calibration: Calibration
    image: Image.Image | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.image.size if self.image is not None else IMAGE_SIZE


@dataclass(frozen=True)
class Objects:
    """Objects found in a sweep, most certain first.

    Attributes:
        classes: all class names of the model.
        numbers: (M,) class of every object.
        scores: (M,) between 0 and 1.
        boxes: (M, 7) x, y, z of the centre, length, width, height, heading; or (M, 9) with the velocity along x and y
            in metres per second, of the models that tell it (`visionssm.pointcloud.boxes.VELOCITY`).
        point_range: that the model looks at.
        camera: that the sweep belongs to, or None.
    """

    classes: Sequence[str]
    numbers: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    point_range: Sequence[float]
    camera: Camera | None

    def rows(self) -> list[Row]:
        """Class, score and box of every object."""
        return [
            (self.classes[number], score, *(round(x, 2) for x in box))
            for number, score, box in zip(self.numbers, self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]

    def plain(self) -> dict[str, Any]:
        """{"objects": [{"class": …, "score": …, "box": [x, y, z, length, width, height, heading]}]}.

        Models that tell velocities have them as two more numbers of "box": vx, vy.
        """
        return {
            "objects": [
                {"class": self.classes[number], "score": score, "box": box}
                for number, score, box in zip(self.numbers, self.scores.tolist(), self.boxes.tolist(), strict=True)
            ]
        }

    def save(self, folder: Path, source: Source) -> None:
        """Write the view from above; with a camera the boxes on its picture, and KITTI's text file."""
        view = view_of(self.point_range)
        image = seen_from_above(source.sample, view)
        numbers = [int(x) for x in self.numbers]
        colours = colours_of(numbers)
        draw_above(image, self.boxes, colours, view)
        save_picture(with_classes(image, self.classes, numbers, truth=False), folder / f"{source.name}.png")
        if self.camera is None:
            return
        kinds = [self.classes[number] for number in numbers]
        labels = labels_of_boxes(self.boxes, kinds, self.camera.calibration, self.camera.size, self.scores.tolist())
        write_labels(folder / f"{source.name}.txt", labels)
        if self.camera.image is not None:
            shown = self.camera.image.copy()
            draw_on_image(shown, self.boxes, colours, self.camera.calibration)
            save_picture(shown, folder / f"{source.name}_image.png")


@dataclass(frozen=True)
class SweepDetector:
    """A detector of objects in sweeps, in evaluation mode.

    Attributes:
        model: clouds to detections.
        classes: class names.
        threshold: least score of an object that is reported.
        calib: calibration file of the camera that all sweeps belong to: points that it does not see are left out, as in
            training on KITTI, and KITTI's text files are written beside pictures. None for the whole sweep.
        image: file of the camera's picture; needs `calib`.
    """

    model: LionDetector
    classes: Sequence[str]
    threshold: float = 0.3
    calib: str | Path | None = None
    image: str | Path | None = None

    def __post_init__(self) -> None:
        if self.image is not None and self.calib is None:
            raise ValueError("image needs calib, the calibration file that says where in the picture a point is")
        self.camera()  # what is wrong with the files is told before the first sweep is read

    @property
    def columns(self) -> tuple[str, ...]:
        """Class, score, and the numbers of a box."""
        return ("class", "score", *self.model.box_columns)

    def camera(self) -> Camera | None:
        """What the sweeps belong to.

        Raises:
            UnreadableFileError: (a ValueError) a file is missing or damaged.
            ValueError: the picture cannot be of that camera, as when it was made smaller.
        """
        if self.calib is None:
            return None
        image = None if self.image is None else read_image(Path(self.image), max_pixels=MAX_DECODED_PIXELS)
        calibration = read_calibration(Path(self.calib))
        if image is not None and not calibration.fits(image.size):
            x, y = calibration.projection[:2, 2] / calibration.projection[2, 2]
            raise ValueError(
                f"the picture {str(self.image)!r} has {image.width}×{image.height} pixels, but the camera's axis goes "
                f"through ({x:.0f}, {y:.0f}) by {str(self.calib)!r}, far from its middle: give the picture as the "
                "camera took it, neither made smaller nor cut, and the calibration file of its own frame"
            )
        return Camera(calibration, image)

    def read(self, path: Path) -> np.ndarray:
        """(N, F) points of a .bin file, F as many as the model takes; see `read_points`."""
        return read_points(path, self.model.point_features)

    def exportable(self) -> Exportable:
        """What `export_archive` takes: points to boxes, scores and classes."""
        from visionssm.tasks.pointcloud.export import exportable_detector

        return exportable_detector(self.model, self.classes)

    @property
    def exportable_parts(self) -> dict[str, Callable[[], Exportable]]:
        """Parts of the network that have a form of their own: `map`, from a map of features to boxes and scores."""
        from visionssm.tasks.pointcloud.export import exportable_map_network

        return {"map": lambda: exportable_map_network(self.model, self.classes)}

    def __call__(self, sweeps: Sequence[np.ndarray]) -> list[Objects]:
        """Objects of every sweep whose score reaches the threshold."""
        place = next(self.model.parameters()).device
        camera = self.camera()
        clouds = [x if camera is None else x[camera.calibration.sees(x, camera.size)] for x in sweeps]
        results = []
        for found in self.model.detections([torch.from_numpy(x).to(place) for x in clouds]):
            certain = found.scores >= self.threshold
            boxes, scores, labels = (x[certain].detach().cpu().numpy() for x in found)
            results.append(Objects(self.classes, labels, scores, boxes, self.model.grid.point_range, camera))
        return results


_CHANGES = tuple(inspect.signature(LionDetector.__init__).parameters)[1:]


def trained_point_cloud_detector(checkpoint: Mapping[str, Any]) -> SweepDetector:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    fields = fields_of(about, "model", ("name", "changes"))
    name, changes = fields.get("name"), arguments_of(fields, "changes")
    if not isinstance(name, str) or name not in VARIANTS:
        raise CheckpointError(f"the checkpoint is of a model {name!r}, which is no known detector of point clouds")
    check_fields(changes, _CHANGES, "model.changes")
    model = rebuilt(lambda: create_detector(name, **changes), checkpoint, name)
    return SweepDetector(model, class_names_of(about, len(model.classes)))
