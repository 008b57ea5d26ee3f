#!/usr/bin/env bash
# The tests in an environment of the oldest supported versions, or of those given: tools/check_versions.sh [DIR] [PIN ...]
# It takes some 6 GB in DIR (a temporary folder by default) and 10 to 20 minutes on two cores. Run it before a release, and
# put the result into docs/versions.md.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-$(mktemp -d)}
shift || true
pins=("$@")
if [ ${#pins[@]} -eq 0 ]; then
    pins=(torch==2.11.0 torchvision==0.26.0 timm==1.0.21 numba==0.60.0 numpy==2.0.2)
fi

python3 -m venv "$folder"
"$folder/bin/pip" install -q "${pins[@]}"
"$folder/bin/pip" install -q ".[all,dev]" "${pins[@]}"
"$folder/bin/pip" uninstall -q -y visionssm
PYTHONPATH=$PWD "$folder/bin/python" -m pytest tests -p no:cacheprovider
"$folder/bin/pip" list | grep -iE "^(torch|torchvision|triton|timm|numba|numpy|onnx|onnxruntime) "
