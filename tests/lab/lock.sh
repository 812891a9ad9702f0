#!/bin/bash
# Writes requirements.lock from pyproject.toml: every package with its hashes, no index address.
# pip-tools runs in an environment of its own, so it is no dependency of pbxctl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
/usr/bin/python3 -m venv "$tools"
"$tools/bin/pip" install -q pip-tools
"$tools/bin/pip-compile" -q --all-extras --build-deps-for editable --allow-unsafe --strip-extras \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
  --output-file requirements.lock pyproject.toml
printf '# Written by `make lock` from pyproject.toml: do not edit.\n' | cat - requirements.lock >"$tools/lock"
cp "$tools/lock" requirements.lock
