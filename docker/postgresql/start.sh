#!/bin/sh
# Makes the database at its first start, then runs PostgreSQL. Logins come by TLS with a password.
set -eu
part=/etc/pbxctl
base=/data/main
if [ ! -e "$base" ]; then
  # Beside its place and renamed: a start that was broken off leaves nothing half made.
  rm -rf "$base.new"
  initdb -D "$base.new" --username=pbxctl --pwfile="$part/secrets/records" --encoding=UTF8 \
    --locale=C.UTF-8 --auth=scram-sha-256 --data-checksums
  # By TLS alone; the socket is the health check's, which does not log in.
  printf '%s pbxctl pbxctl %s scram-sha-256\n' hostssl all local '' >"$base.new/pg_hba.conf"
  # The single-user mode listens nowhere: nobody logs in before all is set.
  echo 'CREATE DATABASE pbxctl;' | postgres --single -D "$base.new" postgres >/dev/null
  mv "$base.new" "$base"
fi
exec postgres -D "$base" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql \
  -c ssl=on -c ssl_cert_file="$part/tls/postgres.pem" -c ssl_key_file="$part/tls/postgres.key" \
  -c ssl_min_protocol_version=TLSv1.3
