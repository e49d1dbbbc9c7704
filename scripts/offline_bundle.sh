#!/usr/bin/env bash
# Everything that a machine without a network needs to run this project, as files of limited size.
#
#     bash scripts/offline_bundle.sh OUTPUT [--part-mb 48] [--arch 90] [--wheels FOLDER]
#                                           [--cuda-of-machine | --without-torch]
#
# In: this repository; wheels by pip for the Python that is called `python` here (the machine must have the same
# version), or of FOLDER. Out: OUTPUT/bundle.NN, parts of at most that size, SHA256SUMS, and unpack.sh, which checks the
# sums, joins the parts and installs into a virtual environment (`bash unpack.sh FOLDER VENV`). Wheels keep what training
# needs on one GPU architecture (scripts/slim_wheel.py).
#   --cuda-of-machine  carry torch, Triton and NCCL; the other CUDA libraries are those of the machine's own torch, of
#                      any version that was built for CUDA 13
#   --without-torch    carry none of them: the machine has torch 2.14
set -euo pipefail

output=""; part_mb=48; arch=90; wheels=""; carried=all
while [ $# -gt 0 ]; do
  case "$1" in --part-mb|--arch|--wheels) [ $# -gt 1 ] || { echo "offline_bundle.sh: $1: expected a value" >&2; exit 2; } ;; esac
  case "$1" in
    --part-mb) part_mb="$2"; shift 2 ;;
    --arch) arch="$2"; shift 2 ;;
    --wheels) wheels="$2"; shift 2 ;;
    --cuda-of-machine) carried=torch; shift ;;
    --without-torch) carried=none; shift ;;
    -h|--help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "offline_bundle.sh: found $1, expected an option of --help" >&2; exit 2 ;;
    *) output="$1"; shift ;;
  esac
done
[ -n "$output" ] || { echo "offline_bundle.sh: expected a folder to write to; see --help" >&2; exit 2; }
[ -e "$output" ] && { echo "offline_bundle.sh: $output exists; name another folder" >&2; exit 2; }
case "$part_mb" in ''|*[!0-9]*|0) echo "offline_bundle.sh: --part-mb: found $part_mb, expected a number above 0" >&2; exit 2 ;; esac
case "$arch" in ''|*[!0-9]*|0) echo "offline_bundle.sh: --arch: found $arch, expected a number such as 90" >&2; exit 2 ;; esac
if [ -n "$wheels" ] && ! ls "$wheels"/*.whl > /dev/null 2>&1; then
  echo "offline_bundle.sh: --wheels: found no *.whl in $wheels" >&2; exit 2
fi
for tool in zstd split sha256sum strip readelf; do
  command -v "$tool" > /dev/null || { echo "offline_bundle.sh: $tool is not installed" >&2; exit 2; }
done

root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d "${TMPDIR:-/tmp}/titan-speech-bundle.XXXXXX")"
trap 'rm -rf "$work" "$output.partial"' EXIT
rm -rf "$output.partial"  # parts of a start that was killed would be joined with those of this one
mkdir -p "$work/bundle/wheels"

# The project with its recipes and benchmarks, as files of the last commit.
git -C "$root" archive --prefix=titan_speech/ HEAD | tar xf - -C "$work/bundle"

# Wheels of everything it needs.
if [ -n "$wheels" ]; then
  cp "$wheels"/*.whl "$work/bundle/wheels/"
else
  python -m pip install --quiet --dry-run --ignore-installed --report "$work/resolved.json" "$root"
  python - "$work/resolved.json" "$carried" > "$work/pins" <<'PINS'
import json, re, sys
NETWORK = "titan|wandb$|hf[-_]xet|tensorboard[-_]data[-_]server"  # imported only by who uses them; of no use there
LEFT_OUT = {"all": NETWORK, "torch": f"{NETWORK}|nvidia-(?!nccl)|cuda-", "none": f"{NETWORK}|nvidia-|cuda-|torch$|triton$"}
for one in json.load(open(sys.argv[1]))["install"]:
    name, version = one["metadata"]["name"], one["metadata"]["version"]
    if not re.match(LEFT_OUT[sys.argv[2]].replace("titan", "titan[-_]speech$"), name):
        print(f"{name}=={version}")
PINS
  python -m pip download --quiet --no-deps --dest "$work/bundle/wheels" --requirement "$work/pins"
fi
python "$root/scripts/slim_wheel.py" "$arch" "$work"/bundle/wheels/*.whl

# One archive, cut into parts, with their sums and a script that checks them.
mkdir -p "$output.partial"
tar cf - -C "$work" bundle | zstd -q -9 --long=27 -T0 | split -b "${part_mb}M" -d -a 2 - "$output.partial/bundle."
cat > "$output.partial/unpack.sh" <<'UNPACK'
#!/usr/bin/env bash
# Check, join and unpack the bundle next to this script; with VENV also install it there, without a network.
#     bash unpack.sh FOLDER [VENV]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:?expected a folder to unpack into}"
folder="$(realpath -m "$folder")"  # a .pth file names it
[ -e "$folder" ] && { echo "unpack.sh: $folder exists; name another folder" >&2; exit 2; }
(cd "$here" && sha256sum --quiet -c SHA256SUMS) || { echo "unpack.sh: a part is damaged or missing; copy it again" >&2; exit 1; }
mkdir -p "$folder"
if command -v zstd > /dev/null; then
  cat "$here"/bundle.* | zstd -q -d -c | tar xf - -C "$folder" --strip-components=1
else
  cat "$here"/bundle.* | python3 -c 'import sys, zstandard; zstandard.ZstdDecompressor().copy_stream(sys.stdin.buffer, sys.stdout.buffer)' \
    | tar xf - -C "$folder" --strip-components=1
fi
[ $# -lt 2 ] && exit 0
python3 -m venv --system-site-packages "$2"
packages="$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$packages/machine.pth"  # if it is in a venv itself
"$2/bin/python" -m pip install --quiet --no-index --no-deps --find-links "$folder/wheels" "$folder"/wheels/*.whl
echo "$folder/titan_speech" > "$packages/titan_speech.pth"
"$2/bin/python" -c 'import titan_speech; print("titan_speech", titan_speech.__version__)'
UNPACK
(cd "$output.partial" && sha256sum bundle.* unpack.sh > SHA256SUMS)
mv "$output.partial" "$output"
du -m "$output"/* | awk '{ print $1 " MiB  " $2 }'
