"""LION with RWKV-6 on Argoverse 2 as it is published; see lion_mamba_argoverse2.py."""

_base_ = "./lion_mamba_argoverse2.py"

model = dict(name="lion_rwkv_argoverse2")
