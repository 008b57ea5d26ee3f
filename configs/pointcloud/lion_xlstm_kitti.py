"""LION with xLSTM on KITTI as it is published; see lion_mamba_kitti.py."""

_base_ = "./lion_mamba_kitti.py"

model = dict(name="lion_xlstm_kitti")
