"""Image classification: timm's models, data and augmentation, losses of the published recipes."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.classification"

TASK = Task(
    name="classification",
    models={
        "ImageClassifier": f"{_HERE}.model:ImageClassifier",
        "BinaryCrossEntropyClassifier": f"{_HERE}.binary:BinaryCrossEntropyClassifier",
        "DistilledClassifier": f"{_HERE}.distillation:DistilledClassifier",
        "MesaClassifier": f"{_HERE}.mesa:MesaClassifier",
    },
    datasets={
        "TimmDataset": f"{_HERE}.data:timm_dataset",
        "FolderDataset": f"{_HERE}.folder:folder_dataset",
        "DigitsDataset": "visionssm.data.digits:DigitsDataset",
        "ArrowPointingDataset": f"{_HERE}.arrow_pointing:ArrowPointingDataset",
    },
    metrics={"ClassificationMetric": f"{_HERE}.metric:ClassificationMetric"},
    hooks={"MesaHook": f"{_HERE}.mesa:MesaHook"},
    options=frozenset({"root"}),
    completes=f"{_HERE}.completing:complete",
    makes_predictor=f"{_HERE}.predictor:trained_classifier",
    applies_exported=f"{_HERE}.exported:exported_classifier",
)
