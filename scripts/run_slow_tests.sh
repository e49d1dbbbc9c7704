#!/usr/bin/env bash
# The slow tests: parity of all parallel layouts and both families, overfitting, decoding. Hours on 2 cores.
# Example: bash scripts/run_slow_tests.sh -k overfit
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m pytest -m slow "$@"
