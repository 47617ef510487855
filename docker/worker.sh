#!/bin/sh
# A Ray worker with its own GPU: the first that no other worker on this machine uses. Without any GPU it has none.
#
#   worker.sh ADDRESS [OPTION OF ray start]...
#
# Lock files in a shared folder say which GPUs are in use; a worker holds its lock as long as it runs.
set -eu
address=$1
shift
locks=${GPU_LOCKS:-/run/gpus}
cores=$(nproc)
gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | wc -l)

if [ "$gpus" -eq 0 ]; then
    exec ray start --address="$address" --num-cpus="${WORKER_CPUS:-$cores}" --num-gpus=0 --block "$@"
fi
share=$((cores / gpus))
gpu=0
while [ "$gpu" -lt "$gpus" ]; do
    exec 9>"$locks/$gpu"
    if flock --nonblock 9; then
        echo "this worker has GPU $gpu of $gpus"
        export CUDA_VISIBLE_DEVICES="$gpu"
        exec ray start --address="$address" --num-cpus="${WORKER_CPUS:-$((share > 0 ? share : 1))}" --num-gpus=1 \
            --block "$@"
    fi
    gpu=$((gpu + 1))
done
echo "no GPU is left for this worker: all $gpus are in use; scale to $gpus workers" >&2
exit 1
