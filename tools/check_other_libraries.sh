#!/usr/bin/env bash
# Install the libraries of docs/use_with.md and docs/deployment.md beside this package, without another PyTorch, and run
# every block of these pages, and the notebooks of examples/. tools/check_other_libraries.sh [PYTHON], a Python with
# visionssm[all,dev]. Takes some minutes and 2 GB. The blocks with mmdet and mmseg run where these are installed, or are in
# PYTHONPATH.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(realpath -s "${1:-$(command -v python3)}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

libraries=(segmentation_models_pytorch transformers accelerate lightning torchgeo grad-cam fastai openvino torchao)
libraries+=(mlflow-skinny nbclient nbformat ipykernel)
"$python" -m pip install --quiet --dry-run --report "$work/report.json" "${libraries[@]}"
"$python" - "$work/report.json" >"$work/needed.txt" <<'E2'
import json, sys

for wheel in json.load(open(sys.argv[1]))["install"]:
    about = wheel["metadata"]
    assert about["name"] not in ("torch", "torchvision", "timm"), f"another {about['name']} would be installed"
    print(f"{about['name']}=={about['version']}")
E2
"$python" -m pip install --quiet --no-deps --target "$work/site" -r "$work/needed.txt"
PYTHONPATH="$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}" "$python" -m pytest -n0 -rs --slow tests/docs/test_commands.py tests/docs/test_notebooks.py \
    -k "another_package or notebook or deployment"
PYTHONPATH="$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}" "$python" -m pytest -n0 -rs tests/engine/test_loggers.py
