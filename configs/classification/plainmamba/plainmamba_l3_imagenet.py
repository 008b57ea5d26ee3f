r"""PlainMamba-L3: 51.0M parameters, 82.3 % published top-1. The authors' recipe, in float32, with a moving average.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/plainmamba/plainmamba_l3_imagenet.py --launcher pytorch

The authors forget ten times as fast in the last 50 epochs; here the moving average keeps its decay.
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="plainmamba_l3", drop_path_rate=0.4)

optim_wrapper = dict(type="OptimWrapper", clip_grad=dict(max_norm=1.0))
