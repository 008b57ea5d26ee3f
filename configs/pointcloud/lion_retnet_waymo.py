"""LION with RetNet on Waymo as it is published; see lion_mamba_waymo.py."""

_base_ = "./lion_mamba_waymo.py"

model = dict(name="lion_retnet_waymo")
