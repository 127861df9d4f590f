#!/bin/bash
# Run once by PostgreSQL's image, on an empty data directory: the databases, roles and tables that configs/ names.
# Passwords come from files, as headwater's own do (docker-compose.yml, secrets). Whatever fails ends the start, so
# that a half-made cluster is never taken for a whole one.
set -euo pipefail

: "${STUDENT_PASSWORD_FILE:?}" "${TELEMETRA_PASSWORD_FILE:?}"
sources=${SOURCES:-/docker-entrypoint-initdb.d/source}
orders_table=${ORDERS_TABLE:-2025em1100506_orders}

run() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" "$@"; }

run --dbname postgres <<'SQL'
\set student_password `cat "$STUDENT_PASSWORD_FILE"`
\set telemetra_password `cat "$TELEMETRA_PASSWORD_FILE"`

-- The orders' application, by whose name headwater captures too. pg_monitor: to see when the transactions of others
-- began.
CREATE ROLE student LOGIN PASSWORD :'student_password';
GRANT pg_monitor TO student;
CREATE DATABASE food_delivery_db OWNER student;

-- The role of analyze, which makes its tables itself (db/migrations).
CREATE ROLE telemetra LOGIN PASSWORD :'telemetra_password';
CREATE DATABASE telemetra OWNER telemetra;

-- Who owns, writes and reads what analyze makes (docs/analyze-tables.md). Made here, because telemetra may make no
-- roles; as a member of the owner it hands its tables over.
CREATE ROLE headwater_owner NOLOGIN;
CREATE ROLE headwater_writer NOLOGIN;
CREATE ROLE headwater_reader NOLOGIN;
GRANT headwater_owner TO telemetra;

\connect telemetra
GRANT USAGE, CREATE ON SCHEMA public TO headwater_owner;
GRANT USAGE ON SCHEMA public TO headwater_writer, headwater_reader;
SQL

# db/source with the table's name put in, as `headwater generate` does it.
quoted=${orders_table//\"/\"\"}
escaped=$(printf '%s' "$quoted" | sed 's/[\\&/]/\\&/g')
sed -e "s/\"orders\"/\"$escaped\"/g" -e "s/\"orders_created_at_idx\"/\"${escaped}_created_at_idx\"/g" \
    "$sources/orders.sql" | run --dbname food_delivery_db --command 'SET ROLE student' --file -
