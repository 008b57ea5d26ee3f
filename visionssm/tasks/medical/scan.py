"""Reading of NIfTI volumes and images, and writing of labels on the same grid."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import regular_file
from visionssm.data.images import MAX_DECODED_PIXELS, read_image
from visionssm.drawing import save_picture
from visionssm.extras import needs_extra
from visionssm.files import complete_or_absent

NIFTI = (".nii", ".nii.gz")
MOST_VOXELS = 2**29
_OTHER_FORMATS = (".dcm", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".hdr", ".img")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a NIfTI file are.

    Attributes:
        affine: (4, 4) from indices of the file to mm.
        header: nibabel's.
        turns: nibabel's orientation of the file's axes.
        shape: of the file's array.
    """

    affine: np.ndarray
    header: Any
    turns: np.ndarray
    shape: tuple[int, ...]

    def upright(self, volume: np.ndarray) -> np.ndarray:
        """The file's array as (z, y, x): slices from the feet up, rows from back to front, columns from left on."""
        import nibabel

        return nibabel.orientations.apply_orientation(volume.reshape(self.shape[:3]), self.turns).transpose(2, 1, 0)

    def restored(self, volume: np.ndarray) -> np.ndarray:
        """Such an array in the order of the file's axes."""
        import nibabel

        straight = np.array([[0, 1], [1, 1], [2, 1]], float)
        back = nibabel.orientations.ornt_transform(straight, self.turns)
        return nibabel.orientations.apply_orientation(volume.transpose(2, 1, 0), back)


@dataclass(frozen=True)
class Scan:
    """An image or a volume.

    Attributes:
        pixels: (C, H, W), or (C, D, H, W) as `Grid.upright` has it.
        spacing: in mm, one number a side; 1 for images.
        grid: of a volume; None for an image.
    """

    pixels: np.ndarray
    spacing: tuple[float, ...]
    grid: Grid | None = None


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file."""
    return path.name.lower().endswith(NIFTI)


def read_volume(path: str | Path) -> Scan:
    """A NIfTI file, 3-D.

    Raises:
        UnreadableFileError: it is missing, damaged, of another number of dimensions, too large or not finite.
        MissingExtraError: (an ImportError) nibabel is not installed.
    """
    with needs_extra("medical", "reading NIfTI files"):
        import nibabel
    path = regular_file(path)
    try:
        with nibabel.imageglobals.LoggingOutputSuppressor():  # it mends headers, without saying of which file
            is_second, _ = nibabel.Nifti2Image.path_maybe_image(path)
            image = (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_filename(path)
            shape = tuple(int(n) for n in image.shape)
            sizeless = _has_no_sizes(image)
    except Exception as error:  # of damaged files whatever comes: EOFError, zlib.error, HeaderDataError, …
        raise UnreadableFileError(path, f"it is no NIfTI file ({_told(error)}){_misnamed(path)}") from error
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise UnreadableFileError(path, f"it has {len(shape)} dimensions ({_times(shape)}), where 3 are expected")
    if min(shape) < 1 or np.prod(shape, dtype=float) > MOST_VOXELS:
        raise UnreadableFileError(path, f"{_times(shape)} voxels are none or too many; {MOST_VOXELS:,} are read")
    if sizeless:
        raise UnreadableFileError(path, "its header does not say how large its voxels are (pixdim is 0 or no number)")
    try:
        volume = np.asarray(image.dataobj)
        grid = Grid(image.affine, image.header, nibabel.io_orientation(image.affine), shape)
    except Exception as error:
        raise UnreadableFileError(path, f"it is truncated or damaged ({_told(error)})") from error
    if volume.dtype.kind not in "biuf":
        raise UnreadableFileError(path, f"its voxels are {volume.dtype}, no plain numbers")
    if not np.isfinite(grid.affine).all() or np.isnan(grid.turns).any():
        raise UnreadableFileError(path, "its affine does not say where the voxels are")
    if wrong := not_finite(volume):
        raise UnreadableFileError(
            path, f"{wrong} of {volume.size} voxels are not finite (NaN, infinite, or more than float32 holds)"
        )
    sizes = np.sqrt((grid.affine[:3, :3] ** 2).sum(0))
    order = np.argsort(grid.turns[:, 0])  # of the file's axes, that of x, of y, of z
    spacing = tuple(float(sizes[order[axis]]) for axis in (2, 1, 0))
    return Scan(grid.upright(volume)[None], spacing, grid)


def _has_no_sizes(image: Any) -> bool:
    """Whether a header has no affine and no sizes either, for which nibabel puts ones."""
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        header = type(image.header).from_fileobj(file, check=False)
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    told = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    return not told and not (np.isfinite(sizes) & (sizes > 0)).all()


def _misnamed(path: Path) -> str:
    """A remedy for files whose name says wrongly whether they are compressed."""
    with path.open("rb") as file:
        start = file.read(348)
    named = path.name.lower().endswith(".gz")
    if not named and start[:2] == _GZIP:
        return "; it is compressed by gzip: name it .nii.gz"
    sized = any(start[:4] == size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big"))
    return "; it is not compressed: name it .nii" if named and sized else ""


def not_finite(pixels: np.ndarray) -> int:
    """How many values are NaN, infinite or too large for float32, in which networks compute."""
    if pixels.dtype.kind != "f":
        return 0
    return int(np.count_nonzero(~(np.abs(pixels) <= np.finfo(np.float32).max)))


def read_scan(path: Path, channels: int) -> Scan:
    """A NIfTI volume, or an image.

    Args:
        path: of CASE.nii.gz, of CASE_0000.nii.gz with CASE_0001.nii.gz, … beside it for several channels, or an image.
        channels: how many the network takes; 1 makes colours grey.
    Raises:
        UnreadableFileError: it cannot be read, or has another number of channels.
    """
    if is_nifti(path):
        return read_channels(channel_paths(path, channels))
    if channels not in (1, 3):
        raise UnreadableFileError(path, f"an image has 1 or 3 channels, the model takes {channels}")
    try:
        image = read_image(path, "L" if channels == 1 else "RGB", max_pixels=MAX_DECODED_PIXELS)
    except UnreadableFileError as error:
        if not _is_of_other_format(path):
            raise
        reason = "it is DICOM or of another medical format than NIfTI: convert it to .nii.gz, DICOM with dcm2niix"
        raise UnreadableFileError(path, reason) from error
    pixels = np.asarray(image)
    return Scan(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), (1.0, 1.0))


def _is_of_other_format(path: Path) -> bool:
    if path.name.lower().endswith(_OTHER_FORMATS):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def channel_paths(path: Path, channels: int) -> list[Path]:
    """Files of all channels of a case, by the first one's.

    Raises:
        UnreadableFileError: it is not the first one's.
    """
    if channels == 1:
        return [path]
    case, channel, suffix = name_parts(path)
    if channel != 0:
        raise UnreadableFileError(
            path, f"the model takes {channels} channels: name the file of the first one, CASE_0000{suffix}"
        )
    return [path.with_name(f"{case}_{n:04d}{suffix}") for n in range(channels)]


def name_parts(path: Path) -> tuple[str, int | None, str]:
    """Case, number of the channel and suffix of a file CASE_0000.nii.gz; without a number, None in its place."""
    end = len(".nii.gz" if path.name.lower().endswith(".nii.gz") else ".nii")
    stem, suffix = path.name[:-end], path.name[-end:]
    found = re.fullmatch(r"(.*)_([0-9]{4})", stem, flags=re.DOTALL)
    return (found[1], int(found[2]), suffix) if found else (stem, None, suffix)


def read_channels(paths: list[Path]) -> Scan:
    """Volumes of one grid as the channels of one.

    Raises:
        UnreadableFileError: one cannot be read, or is of another grid.
    """
    scans = [read_volume(path) for path in paths]
    for path, scan in zip(paths[1:], scans[1:], strict=True):
        difference = other_grid(scans[0], scan)
        if difference:
            raise UnreadableFileError(path, f"its {difference} is not that of {paths[0].name!r}")
    return Scan(np.concatenate([scan.pixels for scan in scans]), scans[0].spacing, scans[0].grid)


def other_grid(a: Scan, b: Scan) -> str:
    """In what two volumes differ: "shape", "affine", or "" for nothing."""
    assert a.grid is not None
    assert b.grid is not None
    if a.pixels.shape[1:] != b.pixels.shape[1:]:
        return "shape"
    return "" if np.allclose(a.grid.affine, b.grid.affine, atol=1e-3) else "affine"


def write_labels(labels: np.ndarray, scan: Scan, path: Path) -> Path:
    """Write class numbers as a PNG label image, or as a NIfTI file with the affine and header of the scan.

    Args:
        labels: of the scan's sides.
        scan: that they are of.
        path: without suffix.
    Returns:
        the file's path.
    """
    numbers = labels.astype(np.uint8)
    if scan.grid is None:
        target = path.with_name(f"{path.name}.png")
        save_picture(Image.fromarray(numbers), target)
        return target
    target = path.with_name(f"{path.name}.nii.gz")
    header = scan.grid.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1.0, 0.0)
    header["cal_min"] = header["cal_max"] = 0
    image = type_of(header)(scan.grid.restored(numbers).reshape(scan.grid.shape), scan.grid.affine, header)
    with complete_or_absent(target) as temporary:
        hidden = temporary.with_name(f"{temporary.name.removesuffix('.gz')}.nii.gz")
        try:
            image.to_filename(hidden)
            hidden.replace(temporary)
        finally:
            hidden.unlink(missing_ok=True)
    return target


def type_of(header: Any) -> Any:
    """Class of the images with such a header."""
    import nibabel

    return nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
