"""Image classification: timm's models, data and augmentation, losses of the published recipes."""
