#!/bin/sh
# Make the folder of wheels that `python -m benchmarks.gpu --wheels DIR` reads, for Python 3.12 on x86-64 Linux.
#
#   sh scripts/gpu_wheels.sh DIR [PYTHON]
#
# The machine with the GPU needs torch, torchvision, pytorch-lightning, torchmetrics and timm, with what these need.
# The other packages that training needs are fetched here, in the versions of constraints.txt: 7 MB.
set -eu
[ $# -ge 1 ] || { echo "usage: sh scripts/gpu_wheels.sh DIR [PYTHON]" >&2; exit 2; }
folder=$1
python=${2:-python3}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$folder"

platforms=""
for version in 2_28 2_27 2_17 2014 2_12 2010 1; do
  case $version in
    2014 | 2010 | 1) platforms="$platforms --platform manylinux${version}_x86_64" ;;
    *) platforms="$platforms --platform manylinux_${version}_x86_64" ;;
  esac
done

fetch() {
  # shellcheck disable=SC2086
  "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version 3.12 \
    --implementation cp $platforms --constraint "$here/constraints.txt" --dest "$folder" "$@"
}
fetch psutil pydantic pyyaml rich safetensors
fetch --no-deps faster-coco-eval hydra-core omegaconf simplejpeg  # torch's companions bring what else these need
# The parser of Hydra's grammar comes as source only; it is pure Python, and OmegaConf 2.3 is for 4.9.
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" "antlr4-python3-runtime==4.9.*"
du -sh "$folder"
