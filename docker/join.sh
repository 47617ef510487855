#!/bin/sh
# Runs a command on a node of its own in a Ray cluster: one that offers nothing, and leaves when the command has ended.
#
#   join.sh ADDRESS COMMAND [ARGUMENT]...
#
# A study's driver has to run on one of the cluster's nodes. A signal reaches the command once, as SIGTERM, and lets it
# save; its exit code is this script's. RAY_JOIN_ARGS holds more options of ray start.
set -u
address=$1
shift
# shellcheck disable=SC2086  # options are words
# Sessions of their own: a terminal's Ctrl-C would come beside what is handed on here, and end the node, too.
setsid ray start --address="$address" --num-cpus=0 --num-gpus=0 ${RAY_JOIN_ARGS:-} --block >/dev/null &
node=$!
setsid "$@" &
command=$!
# A signal ends a wait, not the command.
again=yes
trap 'kill -TERM "$command" 2>/dev/null && again=yes' HUP INT TERM
while [ "$again" ]; do
    again=
    wait "$command"
    status=$?
done
kill -TERM "$node" 2>/dev/null
wait "$node" 2>/dev/null
exit "$status"
