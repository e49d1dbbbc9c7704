#!/usr/bin/env bash
# Fetches the packages of .github/requirements.txt into a folder, each checked against its hash; nothing is run of them.
# Then `PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER pip install -e '.[dev]'` installs these versions and asks no index.
# Usage: bash scripts/fetch_pinned.sh FOLDER
set -euo pipefail
python3 -m pip download --quiet --require-hashes --only-binary :all: --no-deps \
  --requirement "$(dirname "$0")/../.github/requirements.txt" --dest "$1"
