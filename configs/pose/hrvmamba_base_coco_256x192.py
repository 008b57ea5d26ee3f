"""HRVMamba-B on COCO's key points, crops of 256×192: published AP 76.5 in a detector's boxes."""

_base_ = "../_base_/pose_coco.py"

_crops = dict(size=(256, 192), sigma=2.0)
model = dict(name="hrvmamba_base_pose_256x192", changes=dict(drop_path_rate=0.2, drop_rate=0.0))
train_dataloader = dict(batch_size=64, dataset=_crops)
val_dataloader = dict(dataset=_crops)
test_dataloader = dict(dataset=_crops)
