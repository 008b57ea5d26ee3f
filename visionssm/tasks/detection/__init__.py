"""Object detection: torchvision's detectors, COCO's format and average precision."""
