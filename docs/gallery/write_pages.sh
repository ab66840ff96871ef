#!/usr/bin/env bash
# Writes the pages of the gallery, from runs of some minutes on a CPU, in the repository's folder: docs/gallery/write_pages.sh
# A run that is finished is not repeated: remove runs/ to begin again.
set -eu
pages=$(cd "$(dirname "$0")" && pwd)
newest() { ls -t "$1"/version_*/report/test/report.html | head -1; }

crosstask toybench --folder runs/quickstart/toybench
crosstask fit --config quickstart --ckpt_path last
crosstask test --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt
cp "$(newest runs/quickstart)" "$pages/quickstart.html"

crosstask test --config quickstart --trainer.default_root_dir runs/untuned
crosstask report untuned=runs/untuned tuned=runs/quickstart --folder runs/compared
cp runs/compared/report.html "$pages/compared.html"

crosstask inspect --config quickstart --output "$pages/inspect.html"

python experiments/claims_benchmark.py runs/claims/benchmark
crosstask sweep experiments/claims/opt_iml.yaml --output runs/claims/opt_iml --seeds '[0, 1]' --arms '[base, demonstrations]'
cp runs/claims/opt_iml/report.html "$pages/sweep.html"

crosstask toybench --folder runs/instruction_optimization/toybench
crosstask fit --config instruction_optimization_toybench --trainer.max_steps 600 --trainer.val_check_interval 600 --ckpt_path last
crosstask test --config instruction_optimization_toybench --ckpt_path runs/instruction_optimization/checkpoints/last.ckpt
cp "$(newest runs/instruction_optimization)" "$pages/instructions.html"

crosstask toybench --folder runs/scorer_toybench/toybench
crosstask fit --config scorer_toybench --ckpt_path last
crosstask test --config scorer_toybench --ckpt_path runs/scorer_toybench/checkpoints/last.ckpt
cp "$(newest runs/scorer_toybench)" "$pages/scorer.html"

if [ -n "${CROSSTASK_DATA:-}" ] && [ -d smollm2 ]; then  # real tasks and a published model (docs/adaptation.md): hours
  python experiments/tune_on_real_tasks.py runs/claims/number_of_tasks/drawn --model smollm2 --draw_only --steps 40 --tasks 500 \
    --words 160 --tested 20 --tested_words 60 --supervised 8 --test 5 --precision bf16-mixed
  crosstask sweep experiments/claims/number_of_tasks.yaml --output runs/claims/number_of_tasks --seeds '[0]'
  cp runs/claims/number_of_tasks/report.html "$pages/real_tasks.html"
fi
