#!/usr/bin/env bash
# Lints, type-checks and tests the package, on two processes. Makes .venv if needed. Arguments go to pytest, instead of "-n 2".
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
ensure_environment dev
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m ty check fgvc_hf scripts --python .venv
if [ $# -eq 0 ]; then
    set -- -n 2
fi
"$python" -m pytest "$@"
