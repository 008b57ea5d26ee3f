"""LION with RWKV-6 on nuScenes as it is published; see lion_mamba_nuscenes.py."""

_base_ = "./lion_mamba_nuscenes.py"

model = dict(name="lion_rwkv_nuscenes")
