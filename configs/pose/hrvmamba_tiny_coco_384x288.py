"""HRVMamba-T on COCO's key points, crops of 384×288: no figure is published.

The recipe is that of the smaller crops, sigma that of the larger networks.
"""

_base_ = "../_base_/pose_coco.py"

_crops = dict(size=(384, 288), sigma=3.0)
model = dict(name="hrvmamba_tiny_pose_384x288", changes=dict(drop_path_rate=0.0, drop_rate=0.0))
train_dataloader = dict(batch_size=128, dataset=_crops)
val_dataloader = dict(dataset=_crops)
test_dataloader = dict(dataset=_crops)
