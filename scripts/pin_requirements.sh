#!/usr/bin/env bash
# Writes .github/requirements.txt: the version and the hashes of every package that CI installs, from pyproject.toml.
# Needs uv (pip install uv) and a package index; reads metadata only, in 5 s. Dependabot does the same by itself.
# Usage: bash scripts/pin_requirements.sh [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
# setuptools builds the package itself; x86-64 Linux because that is what CI runs on
echo "setuptools>=77" | uv pip compile pyproject.toml - --extra dev --extra benchmarks "$@" \
  --generate-hashes --only-binary :all: --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --default-index https://pypi.org/simple --no-annotate --quiet \
  --custom-compile-command "bash scripts/pin_requirements.sh" --output-file .github/requirements.txt
