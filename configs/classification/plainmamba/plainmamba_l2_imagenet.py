r"""PlainMamba-L2: 26.1M parameters, 81.6 % published top-1. The authors' recipe, in float32, with a moving average.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/plainmamba/plainmamba_l2_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="plainmamba_l2", drop_path_rate=0.2)

train_dataloader = dict(batch_size=256)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=2048)
