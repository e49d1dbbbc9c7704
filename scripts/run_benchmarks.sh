#!/usr/bin/env bash
# Every suite of benchmarks/, one after the other, then the report: on a machine with GPUs also the 1B and 8B cases.
# Example: bash scripts/run_benchmarks.sh outputs/benchmarks/reports [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?folder for the reports}
shift
for suite in train_step sft_packing data_path checkpoint_stall startup memory; do
    python -m benchmarks.run "$suite" --json "$folder/$suite.json" "$@"
done
python -m benchmarks.report --reports "$folder"/*.json --out "$folder/report"
