"""Data sets, transforms and sampling that timm, torchvision, OpenMMLab and MONAI do not have."""
