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

# The first hour of a newcomer, with nothing but the wheel, in an empty folder.
visionssm() {
    echo "+ visionssm $*"
    PYTHONPATH=$folder "$python" -m visionssm "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
}
folder=$(echo "$work"/*_whl)
mkdir "$work/hour"
cd "$work/hour"
"$python" -c 'import numpy, PIL.Image as p; p.fromarray(numpy.eye(32, dtype="uint8") * 255).save("photo.png")'
visionssm train vmamba_nano_digits --cfg-options train_cfg.max_epochs=1
visionssm test vmamba_nano_digits work_dirs/vmamba_nano_digits/best.pth
visionssm predict work_dirs/vmamba_nano_digits/best.pth photo.png --out found.csv --pictures drawn
visionssm visualize routes hilbert --size 8 8
visionssm models 'vmamba*' --csv
visionssm export work_dirs/vmamba_nano_digits/best.pth --out model.onnx
visionssm predict model.onnx photo.png --out found.json
PYTHONPATH=$folder "$python" -m visionssm demo model.onnx --port 0 >"$work/served" 2>"$work/log" &
server=$!
for _ in $(seq 300); do [ -s "$work/served" ] && break; sleep 0.2; done
address=$(grep -o 'http://[^/]*' "$work/served") || { cat "$work/log"; exit 1; }
curl -fsS -F file=@photo.png "$address/predict" | grep -q '"score"'
curl -fsS "$address/" | grep -q page.js
kill -INT $server && wait $server
test -s found.csv && test -s found.json && test -n "$(ls drawn)"
echo "used every command from an empty folder"
