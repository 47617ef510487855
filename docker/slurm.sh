#!/usr/bin/env bash
# A study as a Slurm job: Ray on all nodes of the job, the driver in this script on the first of them.
#
#   sbatch --nodes=2 --gpus-per-node=4 docker/slurm.sh --space search_spaces/paper.yaml
#
# STORAGE is a folder that all nodes share, PYTHON the interpreter of an environment that they share. In a container,
# PREFIX is what starts a program in it, such as PREFIX="apptainer exec --nv study.sif". HEAD_IP is the first node's
# address, where the others cannot reach the one that Ray finds.
#
# Five minutes before the time limit the study saves its checkpoints; submit the same job again to resume, as Slurm does
# by itself where it requeues the job. `scancel --batch --signal=TERM JOB` saves too; without --batch, Slurm ends Ray at
# once, and what came after the newest checkpoints is trained again. Exit code 75 (the driver died) asks for the same.
#SBATCH --job-name=study
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --output=study-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
python=${PYTHON:-.venv/bin/python}
storage=${STORAGE:-$PWD/studies}
port=$((20000 + SLURM_JOB_ID % 10000))
mkdir -p "$storage"
export PATH="$(cd "$(dirname "$python")" && pwd):$PATH"
read -ra prefix <<<"${PREFIX:-}"

# Sockets lie in these folders, and their paths may have 107 characters: sites set a TMPDIR that is too long for that.
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" TMPDIR=/tmp
# Only this job's processes know the token.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$storage/.ray-token-$SLURM_JOB_ID" RAY_USAGE_STATS_ENABLED=0
(umask 077 && "${prefix[@]}" "$python" -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH")
started=()

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]} others=$((${#nodes[@]} - 1))
# A step on some nodes, which keeps running when one of them is lost and may use all cores of each.
step=(srun --overlap --kill-on-bad-exit=0 --cpu-bind=none)

finish() {
    kill "${started[@]}" 2>/dev/null
    wait
    rm -f "$RAY_AUTH_TOKEN_PATH"
    "${step[@]}" --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" rm -rf "$RAY_TMPDIR" || true
}
trap finish EXIT

ip=${HEAD_IP:-$("${step[@]}" --nodes=1 --ntasks=1 --nodelist="$head" "${prefix[@]}" "$python" -c \
    'import ray; print(ray.util.get_node_ip_address())')}
start=("${prefix[@]}" ray start --object-store-memory=500000000 --block)
[ -z "${SLURM_CPUS_ON_NODE:-}" ] || start+=(--num-cpus="$SLURM_CPUS_ON_NODE")
"${step[@]}" --nodes=1 --ntasks=1 --nodelist="$head" \
    "${start[@]}" --head --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1 &
started+=($!)
until "${prefix[@]}" ray health-check --address="$ip:$port" 2>/dev/null; do
    if ! kill -0 "${started[0]}" 2>/dev/null; then
        echo "Ray's head on $head ended; what it printed stands above" >&2
        exit 1
    fi
    sleep 2
done
if [ "$others" -gt 0 ]; then
    "${step[@]}" --nodes="$others" --ntasks="$others" --exclude="$head" "${start[@]}" --address="$ip:$port" &
    started+=($!)
fi

# Slurm signals only this script. It passes the signal to the driver, whose trajectories then save checkpoints.
"${prefix[@]}" "$python" -m study.run --address "$ip:$port" --storage "$storage" "$@" &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null && again=yes' TERM INT
again=yes status=0
while [ -n "$again" ]; do
    again=
    wait "$driver" && status=0 || status=$?
done
exit "$status"
