"""Mamba-YOLO-T on COCO 2017: the published recipe, 300 epochs on 8 GPUs.

Published: box AP 44.5, AP50 61.2, AP75 48.2 on val2017. The table with these figures says 5.8 M parameters; the
published configuration, which is built here, has 6.13 M.
No weights are published, and no run has been repeated here.

torchrun --nproc-per-node=8 tools/train.py configs/yolo/mambayolo_t_coco.py --launcher pytorch
"""

_base_ = "../_base_/yolo_coco.py"

model = dict(name="mambayolo_t")
