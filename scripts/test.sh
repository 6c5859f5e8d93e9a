#!/usr/bin/env bash
# Lints, type-checks and tests the package. Makes .venv if needed. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
ensure_environment dev
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m ty check fgvc_hf scripts --python .venv
"$python" -m pytest "$@"
