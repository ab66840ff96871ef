#!/usr/bin/env bash
# Everything that only a GPU can show, in under 9 minutes on one H200: one JSON, and from it a section of docs/performance.md.
#   perf/gpu.sh [runs/gpu.json] [--toy]      --toy: the same scripts at toy size, for a machine without a GPU
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
results=${1:-runs/gpu.json}
"$python" perf/gpu/measure.py "$results" "${@:2}"
"$python" perf/gpu/page.py "$results" docs/performance.md
