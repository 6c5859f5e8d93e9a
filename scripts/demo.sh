#!/usr/bin/env bash
# Renders a clip whose every trajectory is known, tracks it, and prints the error. Makes .venv if needed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
ensure_environment
"$python" scripts/demo.py "$@"
