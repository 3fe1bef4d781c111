#!/usr/bin/env bash
# The first start makes the cluster, its user and its database; then the server is process 1.
set -euo pipefail
if [[ ! -s $PGDATA/PG_VERSION ]]; then
    initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --encoding UTF8 --locale C.UTF-8 \
        --auth-host scram-sha-256 --auth-local trust --pwfile <(printf %s "$POSTGRES_PASSWORD")
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE \"$POSTGRES_DB\"" \
        | postgres --single -D "$PGDATA" postgres
fi
exec postgres -D "$PGDATA" -c listen_addresses='*'
