"""Mamba-YOLO-B on COCO 2017: the published recipe, 300 epochs on 8 GPUs.

Published: box AP 49.1, AP50 66.5, AP75 53.5 on val2017. The table with these figures, whose row is M, says 19.1 M
parameters; the published configuration, which is built here, has 21.83 M.
No weights are published, and no run has been repeated here.

torchrun --nproc-per-node=8 tools/train.py configs/yolo/mambayolo_b_coco.py --launcher pytorch
"""

_base_ = "../_base_/yolo_coco.py"

model = dict(name="mambayolo_b")
