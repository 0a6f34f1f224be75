#!/bin/sh
# quickstart.sh BIN RUNS: train, evaluate and show the quickstart network. Called by `make quickstart`.
set -eu
bin=$1
runs=$2
work=$(mktemp)
trap 'rm -f "$work"' EXIT

echo "1/3  Training experiment=quickstart"
"$bin/convatlas" train experiment=quickstart run.root="$runs" format=json >"$work"
run=$("$bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["run"])' "$work")
echo
echo "2/3  Evaluating it on the held-out images"
"$bin/convatlas" evaluate run="$run"
echo
echo "3/3  Writing the report"
"$bin/convatlas" report run="$run"

cat <<EOF

Everything lies in $run
  report.html            open it in a browser: curves, confusion matrix, the mistakes
  checkpoints/best.ckpt  the network
  metrics.jsonl          the record, by optimizer step

Try next
  $bin/convatlas runs
  $bin/convatlas train experiment=quickstart model=plain20_cifar
  $bin/convatlas predict checkpoint=$run images=$run/evaluation/test
  $bin/convatlas train --help
EOF
