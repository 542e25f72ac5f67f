#!/usr/bin/env bash
# Error rate by hours of labelled speech: the same small model is trained on 2, 4, 8 and 16 hours of the default model's
# corpora.
#
#   recipes/scaling_curve/run.sh SPEECH WORK [STAGE ...]      stages: prepare train evaluate fit
#
# SPEECH is the same as for recipes/default_model/history/run.sh. A smaller set is memorised sooner: a run takes 2,500
# steps times the square root of the hours, and the measurement with the best error rate on dev is kept. A killed stage
# resumes where it was.
# DEVICE (auto, cpu, cuda) and HOURS ("2 4 8 16") may be set.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../stages.sh"
begin "prepare train evaluate fit" "$@"
hours=${HOURS:-2 4 8 16}

for stage in $stages; do
    echo "== $stage"
    case $stage in
        prepare)
            # shellcheck disable=SC2086 # a list of numbers
            python -m recipes.scaling_curve.curve subsets --output "$work/subsets" --hours $hours \
                -- "$speech"/core.jsonl "$speech"/more/{kathleen,ljspeech,train-clean-3,common-voice-13,speechocean}.jsonl
            spellstream prepare "$speech/dev.jsonl" --output "$work/dev"
            for size in $hours; do
                spellstream prepare "$work/subsets/${size}h.jsonl" --output "$work/${size}h"
            done
            ;;
        train)
            for size in $hours; do
                steps=$(awk -v hours="$size" 'BEGIN { printf "%d", 500 * int(5 * sqrt(hours)) }')
                spellstream train --config "$here/model.toml" --set tokenizer="$shipped/tokenizer.model" \
                    --set optimiser.max_steps="$steps" --set optimiser.decay_steps=$((steps * 2 / 5)) --data "$work/${size}h" \
                    --dev "$work/dev" --output "$work/run-${size}h" --noise "$speech/noise" --device "${DEVICE:-auto}"
            done
            ;;
        evaluate)
            for size in $hours; do
                spellstream evaluate "$speech/dev.jsonl" --model "$work/run-${size}h/best" --json "$work/${size}h.json"
            done
            ;;
        fit)
            points=()
            for size in $hours; do
                points+=("$size=$work/${size}h.json")
            done
            python -m recipes.scaling_curve.curve fit "${points[@]}"
            ;;
    esac
done
