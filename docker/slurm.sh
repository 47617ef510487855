#!/usr/bin/env bash
# A study as a Slurm job: Ray on all nodes of the job, the driver in this script on the first of them.
#
#   sbatch --nodes=2 --gpus-per-node=4 docker/slurm.sh --space search_spaces/paper.yaml
#
# STORAGE is a folder that all nodes share, PYTHON the interpreter of an environment that they share. Two minutes before
# the time limit, the study saves its checkpoints; submit the same job again to resume.
#SBATCH --job-name=study
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=study-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
python=${PYTHON:-.venv/bin/python}
storage=${STORAGE:-$PWD/studies}
port=$((20000 + SLURM_JOB_ID % 10000))
mkdir -p "$storage"
export PATH="$(cd "$(dirname "$python")" && pwd):$PATH"

# Only this job's processes know the token.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$storage/.ray-token-$SLURM_JOB_ID" RAY_USAGE_STATS_ENABLED=0
(umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH")
started=()
trap 'kill "${started[@]}" 2>/dev/null; wait; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" "$python" -c 'import ray; print(ray.util.get_node_ip_address())')
start=(ray start --object-store-memory=500000000 --block)
[ -z "${SLURM_CPUS_ON_NODE:-}" ] || start+=(--num-cpus="$SLURM_CPUS_ON_NODE")
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    "${start[@]}" --head --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1 &
started+=($!)
until ray health-check --address="$ip:$port" 2>/dev/null; do
    kill -0 "${started[0]}"
    sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
    others=$((${#nodes[@]} - 1))
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" "${start[@]}" --address="$ip:$port" &
    started+=($!)
fi

# Slurm signals only this script. It passes the signal to the driver, whose trajectories then save checkpoints.
"$python" -m study.run --address "$ip:$port" --storage "$storage" "$@" &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null && again=yes' TERM INT
again=yes status=0
while [ -n "$again" ]; do
    again=
    wait "$driver" && status=0 || status=$?
done
exit "$status"
