"""LION with RWKV-6 on KITTI as it is published; see lion_mamba_kitti.py."""

_base_ = "./lion_mamba_kitti.py"

model = dict(name="lion_rwkv_kitti")
