"""LION with TTT-Linear in place of Mamba, small, on rendered street scenes: no download.

python tools/train.py configs/pointcloud/lion_ttt_nano_scenes.py
"""

_base_ = "./lion_mamba_nano_scenes.py"

model = dict(name="lion_ttt_nano")
