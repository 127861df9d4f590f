#!/bin/sh
# Checks what is shipped to run headwater with: Dockerfile, docker-compose.yml, Kubernetes, Prometheus, Grafana, CI.
# One line a check; exit code 1 when one fails. Installs what it needs into headwater's cache, once.
#
#   scripts/deploy-check.sh              every check
#   scripts/deploy-check.sh --prove      breaks each thing once in a copy, and sees its check fail
#   scripts/deploy-check.sh --queries    every query of rules and dashboard as JSON, ready to be run
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=$("$root/scripts/python.sh" deploy/requirements.txt)
prometheus=$("$root/scripts/prometheus.sh")
exec "$python" -B "$root/scripts/deploy_check/main.py" --root "$root" --promtool "$prometheus/promtool" "$@"
