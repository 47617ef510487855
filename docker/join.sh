#!/bin/sh
# Runs a command on a node of its own in a Ray cluster: one that offers nothing, and leaves when the command has ended.
#
#   join.sh ADDRESS COMMAND [ARGUMENT]...
#
# A study's driver has to run on one of the cluster's nodes. Signals go to the command alone, which saves and stops;
# its exit code is this script's. RAY_JOIN_ARGS holds more options of ray start.
set -u
address=$1
shift
# shellcheck disable=SC2086  # options are words
ray start --address="$address" --num-cpus=0 --num-gpus=0 ${RAY_JOIN_ARGS:-} --block >/dev/null &
node=$!
"$@" &
command=$!
# A signal ends a wait, not the command.
again=yes
for name in HUP INT TERM; do
    # shellcheck disable=SC2064  # the values are meant as they are now
    trap "kill -$name $command 2>/dev/null && again=yes" "$name"
done
while [ "$again" ]; do
    again=
    wait "$command"
    status=$?
done
kill -TERM "$node" 2>/dev/null
wait "$node" 2>/dev/null
exit "$status"
