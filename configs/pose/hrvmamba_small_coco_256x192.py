"""HRVMamba-S on COCO's key points, crops of 256×192: published AP 74.6 in a detector's boxes."""

_base_ = "../_base_/pose_coco.py"

_crops = dict(size=(256, 192), sigma=2.0)
model = dict(name="hrvmamba_small_pose_256x192", changes=dict(drop_path_rate=0.1, drop_rate=0.1))
train_dataloader = dict(batch_size=64, dataset=_crops)
val_dataloader = dict(dataset=_crops)
test_dataloader = dict(dataset=_crops)
