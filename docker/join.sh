#!/bin/sh
# Runs a command on its own node of a Ray cluster, which has no resources and leaves when the command has ended.
#
#   join.sh ADDRESS COMMAND [ARGUMENT]...
#
# A study's driver has to run on one of the cluster's nodes. A signal is passed to the command once, as SIGTERM, so that
# it can save. The script exits with the command's exit code. RAY_JOIN_ARGS has further options for ray start.
set -u
address=$1
shift
# shellcheck disable=SC2086  # options are words
# Separate sessions: otherwise a terminal's Ctrl-C would reach the command a second time, and would end the node.
setsid ray start --address="$address" --num-cpus=0 --num-gpus=0 ${RAY_JOIN_ARGS:-} --block >/dev/null &
node=$!
setsid "$@" &
command=$!
# A signal ends `wait`, not the command.
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
