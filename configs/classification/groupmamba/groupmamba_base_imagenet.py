r"""GroupMamba-B: 57.2M parameters, 84.5 % published top-1. The authors' recipe, with RegNetY-16GF as the teacher.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/groupmamba/groupmamba_base_imagenet.py --launcher pytorch

The teacher's weights are fetched by timm. Any other model of timm with the same classes can take its place
(`model.teacher`); without one, set `model.type` to ImageClassifier and leave `teacher` and what follows it out.
"""

_base_ = "../../_base_/imagenet.py"

model = dict(
    type="DistilledClassifier",
    name="groupmamba_base",
    drop_path_rate=0.05,
    teacher="regnety_160.deit_in1k",
    distillation="hard",
    alpha=0.5,
)
