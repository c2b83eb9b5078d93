#!/usr/bin/env bash
# Everything there is to learn on a machine with a GPU, in one call of under ten minutes and without a network:
# builds the package in this checkout, runs `pytest -m gpu`, measures the two ceilings, times every op and its peers,
# and prints every bar beside what was measured. Each stage has a time-out of its own and results are written as they
# come, so that nothing that hangs takes the rest with it.
#
#   benchmarks/gpu.sh [--dry-run]
#
#   PYTHON   the interpreter, one with PyTorch and Triton (python3)
#   OUT      folder for the log and the results (benchmarks/results)
#
# --dry-run goes the same way on the CPU: kernels interpreted, sizes tiny, numbers without meaning.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
RESULTS="$OUT/$(date +%Y-%m-%d)-gpu.json"
DRY=()
if [ "${1:-}" = "--dry-run" ]; then
    DRY=(--dry-run)
    RESULTS="$OUT/dry-run-gpu.json"
    export TRITON_INTERPRET=1
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"
rm -f "$RESULTS"

# name, seconds, command
stage() {
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    echo "== $name"
    timeout --kill-after=5 "$limit" "$@"
    local status=$?
    echo "== $name: $([ $status = 0 ] && echo done || echo "status $status") in $((SECONDS - began)) s"
    "$PYTHON" -m benchmarks.gpu stage --out "$RESULTS" --name "$name" --status $status --seconds $((SECONDS - began))
}

missing() {
    [ -z "$("$PYTHON" -c "from alias_ops import _backend; print(_backend.$1 or '')" 2>/dev/null)" ]
}
if missing extension || { [ ${#DRY[@]} = 0 ] && missing 'cuda_extension()[0]'; }; then
    # For this device alone: the others would take as long again each.
    TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$PYTHON" -c \
        'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null)}
    export TORCH_CUDA_ARCH_LIST
    ALIAS_OPS_BUILD_CPU=auto ALIAS_OPS_BUILD_CUDA=auto stage build 120 "$PYTHON" setup.py --quiet build_ext --inplace
fi
stage ceilings 30 "$PYTHON" -m benchmarks.gpu ceilings --out "$RESULTS" "${DRY[@]}"
stage pooling 120 "$PYTHON" -m benchmarks.gpu pooling --out "$RESULTS" "${DRY[@]}"
stage aliasing 45 "$PYTHON" -m benchmarks.gpu aliasing --out "$RESULTS" "${DRY[@]}"
stage convolutions 90 "$PYTHON" -m benchmarks.gpu convolutions --out "$RESULTS" "${DRY[@]}"
if [ ${#DRY[@]} != 0 ] || ! missing 'cuda_extension()[0]'; then
    stage cuda 45 "$PYTHON" -m benchmarks.gpu cuda --out "$RESULTS" "${DRY[@]}"
    # Races and reads of what was never written show here alone; on few, small maps, for it is a hundred times slower.
    if [ ${#DRY[@]} = 0 ] && command -v compute-sanitizer > /dev/null; then
        for tool in memcheck racecheck initcheck; do
            PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" 20 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                --kernel-regex kns=alias_ops "$PYTHON" -m benchmarks.gpu sanitize --out "$RESULTS"
        done
    else
        stage sanitize 40 "$PYTHON" -m benchmarks.gpu sanitize --out "$RESULTS" "${DRY[@]}"
    fi
    "$PYTHON" -m benchmarks.gpu fastest --out "$RESULTS"
fi
# Last, for it takes what time is left: kernels are compiled for every size class that the tests meet.
if [ ${#DRY[@]} = 0 ]; then
    WORKERS=$("$PYTHON" -c 'import xdist; print("-n 8")' 2>/dev/null)
    # shellcheck disable=SC2086
    ALIAS_OPS_AUTOTUNE=0 stage tests $((530 - SECONDS > 60 ? 530 - SECONDS : 60)) \
        "$PYTHON" -m pytest -m gpu -q --maxfail=20 -p no:cacheprovider $WORKERS tests
else
    stage tests 60 "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider tests/test_gpu.py
fi
"$PYTHON" -m benchmarks.gpu report --out "$RESULTS"
