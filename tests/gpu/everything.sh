#!/usr/bin/env bash
# All that a GPU can show of this revision, in under ten minutes: one line a part, and results.json
# in the folder $OUT (default: gpu-results), written anew after every part. Without a GPU each part
# runs its small form on the processor, so that the way through is known before a GPU is at hand.
#   OUT=folder tests/gpu/everything.sh [part ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec python -m tests.gpu.everything --output "${OUT:-gpu-results}" "$@"
