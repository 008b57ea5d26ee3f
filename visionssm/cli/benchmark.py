"""Benchmarks, as ratios of medians in one run: kernels, cores, convolution, deformable, networks, models, …; and gpu.

  visionssm benchmark models --models vmamba_tiny_s1l8 --fast

Tables are printed, and written as JSON below work_dirs/ or where --json says.
`published` measures nothing: it counts, and prints the README's tables of models and pose estimators and that of
docs/medical.md.

Exit status: 0 if all was measured, 2 if the arguments are unusable or something is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from visionssm.benchmarks import choices
from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("benchmark", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--threads", type=_positive, help="CPU threads (default: PyTorch's)")

    for name, what in (
        ("kernels", "the selective scan on the CPU against published implementations"),
        ("convolution", "Vim's causal convolution on the CPU: PyTorch's own against other ways"),
        ("deformable", "HRVMamba's deformable sum on the CPU against grid_sample"),
    ):
        operator = commands.add_parser(name, parents=[common], help=what)
        operator.add_argument("--batches", type=_positive, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
        operator.add_argument("--seconds", type=float, default=6.0, help="time for each row (default: 6)")
        operator.add_argument("--json", default=f"work_dirs/benchmark_{name}.json", help="where to write the figures")

    cores = commands.add_parser("cores", parents=[common], help="the scan of a single image on one thread and on all")
    cores.add_argument("--seconds", type=float, default=6.0, help="time for each row (default: 6)")
    cores.add_argument("--json", default="work_dirs/benchmark_cores.json", help="where to write the figures")

    whole = commands.add_parser(
        "models", parents=[common], help="whole models on the CPU beside timm's models of the same FLOPs"
    )
    whole.add_argument(
        "--models",
        nargs="+",
        metavar="PATTERN",
        default=list(choices.DEFAULT_MODELS),
        help=f"registered variants, shell patterns (default: {' '.join(choices.DEFAULT_MODELS)})",
    )
    whole.add_argument(
        "--peers", nargs="*", metavar="NAME", help="timm models beside them (default: usual ones of the same FLOPs)"
    )
    whole.add_argument(
        "--reference",
        metavar="NAME",
        default=choices.REFERENCE,
        help="timm model that each is timed in turn with (default: %(default)s)",
    )
    whole.add_argument("--batch", type=_positive, default=1, help="images at a time for the latency (default: 1)")
    whole.add_argument(
        "--throughput-batch", type=_positive, default=8, help="images at a time for the throughput (default: 8)"
    )
    whole.add_argument("--size", type=_positive, default=224, help="side of the images (default: 224)")
    whole.add_argument(
        "--seconds", type=float, default=10.0, help="time for each latency and each throughput (default: 10)"
    )
    whole.add_argument(
        "--fast",
        action="store_true",
        help="a second a model and no memory: for a look at all of them, --models '*'",
    )
    whole.add_argument(
        "--clock",
        choices=choices.CLOCKS,
        default="wall",
        help="what is measured: time that passes, or the processor's of this process, while others use the machine",
    )
    whole.add_argument("--resume", action="store_true", help="go on with the run of which --json holds the first rows")
    whole.add_argument("--json", default="work_dirs/benchmark_models.json", help="where to write the figures")
    whole.add_argument("--png", help="also draw GFLOPs against latency")

    least = commands.add_parser(
        "bounds",
        parents=[common],
        help="what slow models must cost on the CPU: their operators alone, and their peers'",
    )
    least.add_argument(
        "--models", nargs="+", choices=list(choices.PAIRS), default=list(choices.PAIRS), help="which (default: all)"
    )
    least.add_argument("--size", type=_positive, default=224, help="side of the images (default: 224)")
    least.add_argument("--seconds", type=float, default=3.0, help="time for a model beside its peer (default: 3)")
    least.add_argument("--clock", choices=choices.CLOCKS, default="wall", help="as of models")
    least.add_argument("--resume", action="store_true", help="go on with the run of which --json holds the first rows")
    least.add_argument("--json", default="work_dirs/benchmark_bounds.json", help="where to write the figures")

    inside = commands.add_parser(
        "networks", parents=[common], help="what the scan costs inside VMamba on the CPU, beside Swin"
    )
    inside.add_argument(
        "--models", nargs="+", metavar="NAME", help="only these, beside themselves without scans and Swin"
    )
    inside.add_argument("--seconds", type=float, default=30.0, help="time for each row (default: 30)")
    inside.add_argument("--json", default="work_dirs/benchmark_networks.json", help="where to write the figures")
    inside.add_argument("--png", help="also measure and draw how the cost grows with the image")

    hybrids = commands.add_parser(
        "hybrids", parents=[common], help="what the scan costs inside MambaVision on the CPU, beside Swin"
    )
    hybrids.add_argument("--seconds", type=float, default=8.0, help="time for each row (default: 8)")
    hybrids.add_argument("--json", default="work_dirs/benchmark_hybrids.json", help="where to write the figures")

    papers = commands.add_parser(
        "headlines",
        parents=[common],
        help="the papers' headline results: Vim beside DeiT, ConvS5 beside ConvLSTM and a Transformer",
    )
    papers.add_argument(
        "--sizes", type=_positive, nargs="+", default=list(choices.SIZES), help="sides of images (224 512 1248)"
    )
    papers.add_argument("--seconds", type=float, default=30.0, help="time for each row (default: 30)")
    papers.add_argument("--resume", action="store_true", help="go on with the run of which --json holds the first rows")
    papers.add_argument("--json", default="work_dirs/benchmark_headlines.json", help="where to write the figures")
    papers.add_argument("--png", help="also draw time against image size and length of the context")

    for name, seconds, what in (
        ("pointcloud", 6.0, "LION's operators and parts on the CPU beside attention and references"),
        ("yolo", 30.0, "Mamba-YOLO on the CPU beside itself without scans and torchvision's detectors"),
        ("pose", 45.0, "HRVMamba's pose estimator on the CPU beside timm's HRNet, and what is around it"),
        ("medical", 10.0, "medical segmentation on the CPU beside itself without scans and MONAI's DynUNet"),
        ("restoration", 10.0, "image restoration on the CPU beside itself without scans"),
        ("video", 10.0, "VideoMamba on the CPU, images and clips, beside itself without scans"),
    ):
        task = commands.add_parser(name, parents=[common], help=what)
        task.add_argument(
            "--seconds", type=float, default=seconds, help="time for what is measured in turn (default: %(default)g)"
        )
        task.add_argument("--clock", choices=choices.CLOCKS, default="wall", help="as of models")
        task.add_argument("--dry-run", action="store_true", help="tiny sizes: does everything run?")
        task.add_argument("--json", default=f"work_dirs/benchmark_{name}.json", help="where to write the figures")
        parts = {"medical": choices.MEDICAL_PARTS, "restoration": choices.RESTORATION_PARTS}.get(name)
        if parts:
            task.add_argument(
                "--only",
                nargs="+",
                choices=parts,
                help="measure these parts alone and keep the other figures of the file",
            )

    on_gpu = commands.add_parser(
        "gpu", parents=[common], help="the selective scan on a CUDA or ROCm GPU, beside mamba_ssm's where installed"
    )
    on_gpu.add_argument("--batches", type=_positive, nargs="+", default=[1, 32], help="batch sizes (default: 1 32)")
    on_gpu.add_argument("--dtypes", nargs="+", choices=choices.DTYPES, default=["float32", "bfloat16"])
    on_gpu.add_argument(
        "--all",
        action="store_true",
        help="everything: correctness of all operators, scans, whole models; a results.json and a results.md",
    )
    on_gpu.add_argument(
        "--tune",
        action="store_true",
        help="find the fastest tiles for this GPU and write them beside the kernels, visionssm/kernels/tiles",
    )
    on_gpu.add_argument("--minutes", type=float, default=8.0, help="for --all and --tune (default: 8)")
    on_gpu.add_argument("--out", default="work_dirs/gpu", metavar="DIR", help="for --all (default: work_dirs/gpu)")
    on_gpu.add_argument("--only", nargs="*", default=(), choices=choices.STAGES, help="stages of --all")
    on_gpu.add_argument(
        "--dry-run", action="store_true", help="--all, tiny, on the CPU in Triton's interpreter: do the stages work?"
    )
    on_gpu.add_argument("--json", default="work_dirs/benchmark_gpu.json", help="where to write the figures")

    python = commands.add_parser(
        "overhead", parents=[common], help="Python's microseconds for a call of the scan on a GPU; needs none"
    )
    python.add_argument("--json", default="work_dirs/benchmark_overhead.json", help="where to write the figures")

    commands.add_parser("published", parents=[common], help="published figures beside ours, as in the README")
    return parser


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = make_parser().parse_args(arguments)
    from visionssm.cli.measuring import measure

    try:
        measure(options)
    except (ValueError, ImportError, OSError) as error:
        tell(error)
        return 2
    return 0
