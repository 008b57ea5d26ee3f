"""LION with RetNet on nuScenes as it is published; see lion_mamba_nuscenes.py."""

_base_ = "./lion_mamba_nuscenes.py"

model = dict(name="lion_retnet_nuscenes")
