"""A ViT with as many parameters as the pLSTM of plstm_arrow_pointing.py, and its whole recipe: for comparison.

python tools/train.py configs/classification/plstm/vit_arrow_pointing.py

Measured: 73.9 % on new canvases of 192 pixels, 55.8 % on those of 384; the pLSTM comes to 85.4 % and 52.6 %.
"""

_base_ = "./plstm_arrow_pointing.py"

model = dict(
    _delete_=True,
    type="ImageClassifier",
    name="vit_tiny_patch16_224",
    num_classes=2,
    model_kwargs=dict(img_size=32, patch_size=4, embed_dim=64, num_heads=4, depth=4, dynamic_img_size=True),
)
