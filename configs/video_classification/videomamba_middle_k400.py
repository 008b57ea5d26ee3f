"""VideoMamba-M on Kinetics-400, clips of 8 frames: 80.6 % published top-1 (4 clips × 3 crops). bfloat16.

torchrun --nproc-per-node=8 tools/train.py configs/video_classification/videomamba_middle_k400.py --launcher pytorch

The tiny one's recipe with the drop path of the image model; where the authors' differs was not at hand.
"""

_base_ = "../_base_/kinetics.py"

model = dict(name="videomamba_middle", drop_path_rate=0.5)
