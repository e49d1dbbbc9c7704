#!/usr/bin/env bash
# Start a stage on this machine, or this machine's part of a stage on several. The same command again resumes it.
#
#   scripts/launch/run.sh train_configs/pt_s1.toml [--table.key value ...]
#
# Several machines: run the same on each, at about the same time, with
#
#   NNODES=4 RDZV_ENDPOINT=first-machine:29500 scripts/launch/run.sh train_configs/pt_s1.toml
# Environment variables, all optional:
#   NPROC_PER_NODE    processes on this machine; default: its GPUs (those of CUDA_VISIBLE_DEVICES), or 1
#   NNODES            number of machines, default 1; 2:4 is any number from 2 to 4
#   RDZV_ENDPOINT     host:port of one of them, free and reachable from all; needed for several
#   RDZV_ID           name of the rendezvous, equal on all; default: the configuration's name
#   LOCAL_ADDR        address by which others reach this machine, if its name does not resolve
#   MAX_RESTARTS      how often workers are restarted from the last checkpoint, default 3
#   SHUTDOWN_TIMEOUT  seconds workers have to save when torchrun is stopped, default 150
#   LOG_DIR           output of each worker, default outputs/logs/NAME
#   PYTHON            interpreter, default python
set -euo pipefail

if [[ $# -lt 1 || ! -f $1 ]]; then
  echo "run.sh: found ${1:-no argument}; expected a configuration, such as train_configs/pt_s1.toml" >&2
  exit 2
fi
config=$1
shift
name=$(basename "$config" .toml)
python=${PYTHON:-python}
nnodes=${NNODES:-1}

gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l
  else
    nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true # a broken driver prints its error to standard output
  fi
}
processes=${NPROC_PER_NODE:-$(gpus)}
[[ $processes -ge 1 ]] || processes=1

# An invalid configuration or a missing folder is reported once, and not after every restart.
check=(config check --here --job.config_file "$config" "$@")
[[ $nnodes == *:* ]] || check+=(--world-size "$((nnodes * processes))")
"$python" -m titan_speech "${check[@]}"

if [[ $nnodes == 1 ]]; then
  rendezvous=(--standalone)
elif [[ -z ${RDZV_ENDPOINT:-} ]]; then
  echo "run.sh: found NNODES=$nnodes without RDZV_ENDPOINT; expected the host:port of one machine, equal on all" >&2
  exit 2
else
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # else a node that joins later waits in vain for torchrun's shared store
  rendezvous=(--nnodes "$nnodes" --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "${RDZV_ID:-$name}")
  [[ -z ${LOCAL_ADDR:-} ]] || rendezvous+=(--local-addr "$LOCAL_ADDR")
fi

logs=${LOG_DIR:-outputs/logs/$name}
mkdir -p "$logs"
exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$processes" \
  --max-restarts "${MAX_RESTARTS:-3}" --shutdown-timeout "${SHUTDOWN_TIMEOUT:-150}" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --log-dir "$logs" --redirects 3 --tee 3 \
  -m titan_speech.train --job.config_file "$config" "$@"
