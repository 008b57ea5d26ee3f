"""HRVMamba-S on COCO's key points, crops of 384×288: published AP 76.4 in a detector's boxes."""

_base_ = "../_base_/pose_coco.py"

_crops = dict(size=(384, 288), sigma=3.0)
model = dict(name="hrvmamba_small_pose_384x288", changes=dict(drop_path_rate=0.1, drop_rate=0.1))
train_dataloader = dict(batch_size=64, dataset=_crops)
val_dataloader = dict(dataset=_crops)
test_dataloader = dict(dataset=_crops)
