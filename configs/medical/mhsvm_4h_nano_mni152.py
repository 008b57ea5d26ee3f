"""A small MHS-VM with four heads on slices of a real head, the MNI152 template that nilearn ships: two CPU cores.

python tools/train.py configs/medical/mhsvm_4h_nano_mni152.py
python tools/test.py configs/medical/mhsvm_4h_nano_mni152.py work_dirs/mhsvm_4h_nano_mni152/best.pth

Everything but the network is as in `vmunet_nano_mni152.py`.
"""

_base_ = "./vmunet_nano_mni152.py"

model = dict(name="mhsvm_4h_nano")
