#!/usr/bin/env bash
# Wheel and sdist as they would be published: metadata, contents, and each installed outside the source tree and used from
# an empty folder. tools/check_package.sh [PYTHON], a Python that has the dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(realpath -s "${1:-$(command -v python3)}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/tools"
"$work/tools/bin/pip" install -q build twine check-wheel-contents
"$work/tools/bin/python" -m build -o "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$work/tools/bin/twine" check --strict "$work"/dist/*
"$work/tools/bin/check-wheel-contents" "$work"/dist/*.whl

tar -tzf "$work"/dist/*.tar.gz | cut -d/ -f2- >"$work/packed"
for file in tools/train.py configs/vmamba_t_imagenet.py docs/index.md LICENSE; do
    grep -qx "$file" "$work/packed" || { echo "the sdist has no $file" >&2; exit 1; }
done
! grep -E '^tests/|\.(pyc|nbi|nbc)$' "$work/packed" || { echo "the sdist has files that nobody needs" >&2; exit 1; }

cat >"$work/use.py" <<'E'
import sys
from pathlib import Path
import timm, torch, visionssm
from visionssm.kernels.tiles import tile_for

assert visionssm.__file__.startswith(sys.argv[1]), visionssm.__file__
model = timm.create_model("vmamba_nano_test").eval()
assert model(torch.randn(1, 3, 64, 64)).isfinite().all()
assert tile_for("forward", 1).steps == 16  # read from a file of the package
from visionssm.cli import main
from visionssm.engine.shipped import find_config
for name in ("vmamba_nano_digits", "configs/vmamba_t_imagenet.py"):
    assert str(find_config(name)).startswith(sys.argv[1]), find_config(name)
assert main(["train", "vmamba_t_imagenet", "--copy", "mine"]) == 0
from visionssm.cli import COMMANDS
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit as ended:
        assert ended.code == 0, command
assert {"index.html", "page.css", "page.js"} <= {path.name for path in Path(visionssm.__file__).parent.glob("serving/page/*")}
print("used", visionssm.__file__.rsplit("/", 3)[-3])
E
for file in "$work"/dist/*; do
    folder=$work/$(basename "$file" .gz | tr . _)
    "$python" -m pip install -q --no-deps --target "$folder" "$file"
    mkdir "$folder/empty"
    (cd "$folder/empty" && PYTHONPATH=$folder "$python" "$work/use.py" "$folder" >"$work/log") || { cat "$work/log"; exit 1; }
    tail -n1 "$work/log"
done

# The first hour of a newcomer, the commands of the README, with nothing but the wheel, in an empty folder.
folder=$(echo "$work"/*_whl)
export PYTHONPATH=$folder
visionssm() {
    echo "+ visionssm $*"
    "$folder/bin/visionssm" "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
}
answers() { # the command and its arguments: starts, answers to a file, has a page where there should be one, and ends
    echo "+ visionssm $*"
    rm -f "$work/served" # of the one before
    "$folder/bin/visionssm" "$@" --port 0 >"$work/served" 2>"$work/log" &
    local server=$! address
    for _ in $(seq 300); do [ -s "$work/served" ] && break; sleep 0.2; done
    address=$(grep -o 'http://[^/]*' "$work/served") || { cat "$work/log"; exit 1; }
    curl -fsS -F file=@photo.jpg "$address/predict" | grep -q '"score"'
    [ "$1" = serve ] || curl -fsS "$address/" | grep -q page.js
    kill -INT $server && wait $server
}
mkdir "$work/hour"
cd "$work/hour"
"$python" - <<'E'
import numpy, timm, torch, visionssm
from PIL import Image

Image.fromarray(numpy.eye(32, dtype="uint8") * 255).save("photo.jpg")
weights = timm.create_model("vmamba_nano_test").state_dict()
for ours, theirs in {"head.norm.": "classifier.norm.", "head.fc.": "classifier.head."}.items():
    weights = {key.replace(ours, theirs): value for key, value in weights.items()}
torch.save({"model": weights, "epoch": 264, "max_accuracy": 82.6}, "authors.pth")  # as the authors' trainer writes it
E
weights=work_dirs/vmamba_nano_digits/best.pth
visionssm train vmamba_nano_digits --cfg-options train_cfg.max_epochs=1
visionssm test vmamba_nano_digits $weights
visionssm predict $weights photo.jpg --out found.csv --pictures drawn
visionssm predict authors.pth photo.jpg --model vmamba_nano_test
visionssm convert authors.pth ours.safetensors --model vmamba_nano_test
visionssm visualize routes hilbert --size 8 8
visionssm models --pretrained --csv
visionssm export $weights --out model.onnx
visionssm predict model.onnx photo.jpg --out found.json
answers serve model.onnx
answers demo $weights
test -s found.csv && test -s found.json && test -n "$(ls drawn)"
echo "used every command from an empty folder"
