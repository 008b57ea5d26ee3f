"""LION with Mamba and 128 channels on Waymo as it is published; see lion_mamba_waymo.py."""

_base_ = "./lion_mamba_waymo.py"

model = dict(name="lion_mamba_large_waymo")
