"""Mamba-YOLO-L on COCO 2017: the published recipe, 300 epochs on 8 GPUs.

Published: box AP 52.1, AP50 69.8, AP75 56.5 on val2017. 57.6 M parameters, 57.63 M here.
No weights are published, and no run has been repeated here.

torchrun --nproc-per-node=8 tools/train.py configs/yolo/mambayolo_l_coco.py --launcher pytorch
"""

_base_ = "../_base_/yolo_coco.py"

model = dict(name="mambayolo_l")
