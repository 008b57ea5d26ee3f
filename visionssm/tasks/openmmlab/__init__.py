"""Detectors of mmdet and segmentors of mmseg: data sets, annotation checks, predictors, pictures."""
