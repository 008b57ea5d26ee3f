"""LION with RWKV-6 on ONCE as it is published; see lion_mamba_once.py."""

_base_ = "./lion_mamba_once.py"

model = dict(name="lion_rwkv_once")
