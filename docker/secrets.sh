#!/bin/sh
# Creates the private files that compose.yaml needs: a Ray token, passwords, and .env with the owner's ids.
# Existing files are kept.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
for name in ray_token postgres_password grafana_password; do
    [ -s "secrets/$name" ] || od -An -N 32 -t x1 /dev/urandom | tr -d ' \n' >"secrets/$name"
done
# The image's user has the ids of the secrets' owner, and is never root.
user=$(id -u)
group=$(id -g)
if [ "$user" -eq 0 ]; then
    user=1000 group=1000
    chown -R "$user:$group" secrets
fi
if [ ! -e .env ]; then
    cp .env.example .env
    printf '\nSTUDY_UID=%s\nSTUDY_GID=%s\n' "$user" "$group" >>.env
fi
echo "docker/.env and docker/secrets are ready"
