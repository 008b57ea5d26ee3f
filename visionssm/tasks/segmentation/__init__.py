"""Semantic segmentation: torchvision's models, label images, mean intersection over union."""
