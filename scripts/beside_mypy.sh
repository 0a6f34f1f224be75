#!/bin/sh
# beside_mypy.sh BIN COMMAND …: check the style, then run a command and mypy beside it. Called by `make test`.
set -eu
bin=$1
shift
"$bin/ruff" check .
"$bin/ruff" format --check .
said=$(mktemp)
"$bin/mypy" >"$said" 2>&1 &
types=$!
status=0
"$@" || status=$?
wait "$types" || status=1
cat "$said"
rm -f "$said"
exit "$status"
