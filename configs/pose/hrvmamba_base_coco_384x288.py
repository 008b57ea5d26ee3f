"""HRVMamba-B on COCO's key points, crops of 384×288: published AP 77.7 in a detector's boxes."""

_base_ = "../_base_/pose_coco.py"

_crops = dict(size=(384, 288), sigma=3.0)
model = dict(name="hrvmamba_base_pose_384x288", changes=dict(drop_path_rate=0.6, drop_rate=0.2))
train_dataloader = dict(batch_size=32, dataset=_crops)
val_dataloader = dict(dataset=_crops)
test_dataloader = dict(dataset=_crops)
