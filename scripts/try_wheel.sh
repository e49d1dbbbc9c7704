#!/usr/bin/env bash
# Build the wheel, install it alone in an empty folder and use it from another one, as a user without the repository
# does: the bundled recipe and data are copied and checked, each page of help is printed. About 15 s; needs an environment
# with the dependencies.
#
#   scripts/try_wheel.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${1:-python}")

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# A copy of its own: a build leaves folders behind, and an older build/ would be packed too.
mkdir "$folder/source" "$folder/elsewhere"
tar --exclude .git --exclude outputs --exclude .venv --exclude build --exclude '*.egg-info' -cf - . | tar -xf - -C "$folder/source"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$folder/source"
"$python" -m pip install --quiet --no-deps --target "$folder/installed" "$folder"/titan_speech-*.whl
ls -sh "$folder"/titan_speech-*.whl

cd "$folder/elsewhere"
titan_speech() { PYTHONPATH="$folder/installed" "$python" -P -m titan_speech "$@"; }
titan_speech recipes list
titan_speech recipes copy demo
titan_speech recipes copy own_voice
test -f docs/tutorial_voice.md
titan_speech config check --job.config_file train_configs/demo.toml
titan_speech store describe demo_data >/dev/null
found=$(PYTHONPATH="$folder/installed" "$python" -P -c 'import titan_speech; print(titan_speech.__file__)')
[[ $found == "$folder"/installed/* ]] || { echo "try_wheel.sh: $found was used, and not the wheel" >&2; exit 1; }
echo "the wheel works without the repository"
