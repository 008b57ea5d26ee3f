"""VideoMamba-Ti on Kinetics-400, clips of 8 frames: 76.9 % published top-1 (4 clips × 3 crops). bfloat16.

torchrun --nproc-per-node=8 tools/train.py configs/video_classification/videomamba_tiny_k400.py --launcher pytorch
"""

_base_ = "../_base_/kinetics.py"

model = dict(name="videomamba_tiny", drop_path_rate=0.1)
