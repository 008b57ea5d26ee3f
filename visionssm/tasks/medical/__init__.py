"""Segmentation of medical images and volumes: networks of `visionssm.create_segmenter`, Dice and distances."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.medical"

TASK = Task(
    name="medical",
    models={"MedicalSegmentor": f"{_HERE}.model:MedicalSegmentor"},
    datasets={
        "MaskedImages": f"{_HERE}.datasets.masked_images:MaskedImages",
        "SliceVolumes": f"{_HERE}.datasets.slice_volumes:SliceVolumes",
        "NiftiFolder": f"{_HERE}.datasets.nifti_folder:NiftiFolder",
        "Mni152Slices": f"{_HERE}.datasets.mni152:Mni152Slices",
    },
    metrics={"MedicalMetric": f"{_HERE}.metric:MedicalMetric"},
    makes_predictor=f"{_HERE}.predictor:trained_medical_segmenter",
    applies_exported=f"{_HERE}.exported:exported_medical_segmenter",
    extra="medical",
    packages=("monai", "nibabel"),
)
