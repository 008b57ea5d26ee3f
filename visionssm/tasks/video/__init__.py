"""Next-frame prediction: ConvS5 models, clips, error and PSNR."""
