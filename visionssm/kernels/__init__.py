"""Operators: pure functions of tensors, one folder each, with a definition, a CPU kernel and a GPU kernel."""

from visionssm.kernels import routes
from visionssm.kernels.backend import use_backend
from visionssm.kernels.deformable_sum import deformable_sum
from visionssm.kernels.gated_linear_attention import gated_linear_attention
from visionssm.kernels.linear_recurrence import linear_recurrence, linear_recurrence_step
from visionssm.kernels.plstm2d import plstm2d, plstm2d_four_directions
from visionssm.kernels.rotated_boxes import rotated_iou, rotated_iou_3d, rotated_nms, rotated_overlap
from visionssm.kernels.selective_scan import LowRank, selective_scan
from visionssm.kernels.selective_scan.states import scan_states
from visionssm.kernels.sparse_conv import neighbour_table, sparse_conv
from visionssm.kernels.ssd import non_causal_ssd, ssd
from visionssm.kernels.ttt_linear import ttt_linear

__all__ = [
    "LowRank",
    "deformable_sum",
    "gated_linear_attention",
    "linear_recurrence",
    "linear_recurrence_step",
    "neighbour_table",
    "non_causal_ssd",
    "plstm2d",
    "plstm2d_four_directions",
    "rotated_iou",
    "rotated_iou_3d",
    "rotated_nms",
    "rotated_overlap",
    "routes",
    "scan_states",
    "selective_scan",
    "sparse_conv",
    "ssd",
    "ttt_linear",
    "use_backend",
]
