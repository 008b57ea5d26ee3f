"""A task is a folder: its data, model, metric, predictor and pictures."""
