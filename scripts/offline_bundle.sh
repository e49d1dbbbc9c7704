#!/usr/bin/env bash
# Everything that a machine without a network needs to run this project, as files of limited size.
#
#     bash scripts/offline_bundle.sh OUTPUT [--part-mb 48] [--arch 90] [--wheels FOLDER] [--without-torch]
#
# In: this repository; wheels by pip, or of FOLDER. Out: OUTPUT/bundle.NN, parts of at most that size, SHA256SUMS, and
# unpack.sh, which checks the sums, joins the parts and installs into a virtual environment (`bash unpack.sh VENV`).
# The libraries of torch's wheel keep code of one GPU architecture only (scripts/slim_fatbin.py): 53 of 316 MiB of the
# largest one. --without-torch leaves torch and the CUDA libraries to the machine, which must have torch 2.14.
set -euo pipefail

output=""; part_mb=48; arch=90; wheels=""; torch=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --part-mb) part_mb="$2"; shift 2 ;;
    --arch) arch="$2"; shift 2 ;;
    --wheels) wheels="$2"; shift 2 ;;
    --without-torch) torch=no; shift ;;
    -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "offline_bundle.sh: found $1, expected an option of --help" >&2; exit 2 ;;
    *) output="$1"; shift ;;
  esac
done
[ -n "$output" ] || { echo "offline_bundle.sh: expected a folder to write to; see --help" >&2; exit 2; }
[ -e "$output" ] && { echo "offline_bundle.sh: $output exists; name another folder" >&2; exit 2; }
case "$part_mb" in ''|*[!0-9]*|0) echo "offline_bundle.sh: --part-mb: found $part_mb, expected a number above 0" >&2; exit 2 ;; esac
for tool in zstd split sha256sum; do
  command -v "$tool" > /dev/null || { echo "offline_bundle.sh: $tool is not installed" >&2; exit 2; }
done

root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d "${TMPDIR:-/tmp}/titan-speech-bundle.XXXXXX")"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bundle/wheels"

# The project with its recipes and benchmarks, as files of the last commit.
git -C "$root" archive --prefix=titan_speech/ HEAD | tar xf - -C "$work/bundle"

# Wheels of everything it needs.
if [ -n "$wheels" ]; then
  cp "$wheels"/*.whl "$work/bundle/wheels/"
else
  python -m pip download --quiet --dest "$work/bundle/wheels" "$root"
fi
if [ "$torch" = no ]; then
  rm -f "$work"/bundle/wheels/{torch-,nvidia_,triton-,cuda_}*
else
  for wheel in "$work"/bundle/wheels/torch-*.whl; do
    [ -e "$wheel" ] || continue
    python "$root/scripts/slim_fatbin.py" "$wheel" "$arch"
  done
fi

# One archive, cut into parts, with their sums and a script that checks them.
mkdir -p "$output.partial"
tar cf - -C "$work" bundle | zstd -q -9 -T0 | split -b "${part_mb}M" -d -a 2 - "$output.partial/bundle."
cat > "$output.partial/unpack.sh" <<'UNPACK'
#!/usr/bin/env bash
# Check, join and unpack the bundle next to this script; with VENV also install it there, without a network.
#     bash unpack.sh FOLDER [VENV]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:?expected a folder to unpack into}"
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
"$2/bin/python" -m pip install --quiet --no-index --no-deps --find-links "$folder/wheels" "$folder"/wheels/*.whl
echo "$folder/titan_speech" > "$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/titan_speech.pth"
"$2/bin/python" -c 'import titan_speech; print("titan_speech", titan_speech.__version__)'
UNPACK
(cd "$output.partial" && sha256sum bundle.* unpack.sh > SHA256SUMS)
mv "$output.partial" "$output"
du -m "$output"/* | awk '{ print $1 " MiB  " $2 }'
