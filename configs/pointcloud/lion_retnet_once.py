"""LION with RetNet on ONCE as it is published; see lion_mamba_once.py."""

_base_ = "./lion_mamba_once.py"

model = dict(name="lion_retnet_once")
