# Sourced by the other scripts: makes .venv in the repository if needed, with the package in editable mode.
# Usage: ensure_environment [EXTRA]; then "$python" is its interpreter.

ensure_environment() {
    local extra="${1:-}" candidate base="" stamp
    python=.venv/bin/python
    stamp=".venv/installed-${extra:-core}"
    if [ -f "$stamp" ] && [ "$stamp" -nt pyproject.toml ]; then
        return
    fi
    if [ ! -x "$python" ]; then
        for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                base="$candidate"
                break
            fi
        done
        if [ -z "$base" ]; then
            echo "Python 3.11 or newer is needed, and none was found on PATH." >&2
            exit 2
        fi
        "$base" -m venv .venv
    fi
    echo "Installing into .venv (once; a few minutes) ..."
    "$python" -m pip install --quiet --upgrade pip
    "$python" -c 'import torch' 2>/dev/null || "$python" -m pip install --quiet torch==2.13.0
    "$python" -m pip install --quiet --editable ".${extra:+[$extra]}"
    touch "$stamp"
}
