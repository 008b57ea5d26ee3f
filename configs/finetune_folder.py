"""A published model, trained further on the images of a folder that has a folder of images for each class.

python tools/train.py configs/finetune_folder.py --cfg-options root=FOLDER
python tools/predict.py work_dirs/finetune_folder/best.pth photo.jpg

FOLDER/CLASS/*.jpg: a fifth of every class is held out, the same images every time. FOLDER/train/CLASS/*.jpg and
FOLDER/val/CLASS/*.jpg: validation is on val. Another model: model.name=…; another length: train_cfg.max_epochs=….
"""

root = None

model = dict(
    type="ImageClassifier",
    name="vmamba_tiny_s1l8",
    num_classes=None,  # as many as there are class folders
    pretrained=True,  # or the file of the weights; False: begin from random weights
    label_smoothing=0.1,
)

# What is None here or not given follows from the folder, the model and the machine: the size and normalisation of the
# images, the batch (32, less for a small set), the loader processes (one per core).
train_dataloader = dict(
    batch_size=None,
    num_workers=None,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="FolderDataset",
        split="train",
        transform=dict(scale=(0.5, 1.0), hflip=0.5, color_jitter=0.2),  # hflip=0 where left and right differ: letters
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=None,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="FolderDataset", split="val"),
)
val_evaluator = dict(type="ClassificationMetric")
val_cfg = dict()

_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=1)
optim_wrapper = dict(
    constructor="DecayConstructor",  # no decay of norms, biases, A_logs and Ds
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=3, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=10),
    checkpoint=dict(type="SafeCheckpointHook", interval=5, max_keep_ckpts=1, save_best="top1"),
)
custom_hooks = [
    # the average is over the last tenth of the steps done so far, 10,000 at most, however many there will be
    dict(type="EMAHook", ema_type="MomentumAnnealingEMA", gamma=10, momentum=1e-4, update_buffers=True),
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1",)),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cudnn_benchmark=True)
randomness = dict(seed=0)
