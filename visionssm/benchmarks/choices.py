"""What can be chosen on the command line of `visionssm benchmark`, told without PyTorch."""

REFERENCE = "swin_tiny_patch4_window7_224"
"""Model of timm that each model is timed in turn with."""

DEFAULT_MODELS = ("efficientvmamba_tiny", "msvmamba_nano", "spatialmamba_tiny", "vim_tiny", "vmamba_tiny_s1l8")

PAIRS = {
    "vim_tiny": "deit_tiny_patch16_224",
    "plstm_vis_t": "deit_tiny_patch16_224",
    "efficientvmamba_tiny": "convnext_femto",
    "hrvmamba_nano": "convnext_pico",
    "localvim_tiny": "convnext_nano",
    "localvmamba_tiny": "deit_small_patch16_224",
    "groupmamba_tiny": "deit_small_patch16_224",
    "vssd_tiny": "deit_small_patch16_224",
    "msvmamba_tiny": "swin_tiny_patch4_window7_224",
}
"""Models that are slower than their peers, and the peers."""

SIZES = (224, 512, 1248)
"""Sides of the images of the papers' headline results."""

CLOCKS = ("wall", "processor")
MEDICAL_PARTS = ("images", "windows", "scans", "patches")
RESTORATION_PARTS = ("light", "classic", "frame")
DTYPES = ("float32", "bfloat16", "float16")
STAGES = ("ceilings", "correctness", "scans", "networks", "others")
