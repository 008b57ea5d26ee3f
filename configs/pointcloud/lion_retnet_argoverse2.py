"""LION with RetNet on Argoverse 2 as it is published; see lion_mamba_argoverse2.py."""

_base_ = "./lion_mamba_argoverse2.py"

model = dict(name="lion_retnet_argoverse2")
