#!/usr/bin/env bash
# Trains a model like the default one on your own speech. Each stage can be run separately and repeatedly, and resumes
# where it was stopped:
#
#   recipes/default_model/run.sh SPEECH WORK [STAGE ...]      stages: prepare label synthesise train average lm evaluate
#
# SPEECH holds manifests (JSON lines, as `spellstream prepare` reads them):
#   told/*.jsonl     speech with its text
#   untold/*.jsonl   speech without a text, to be labelled by the teacher; may be missing
#   dev.jsonl        for choices, test.jsonl for the report; their speakers and sentences occur nowhere else
#   text/*.txt       sentences, one per line, for synthetic speech and the language model
#   noise/           recordings of background noise; may be missing
# WORK gets all output: about 2 GB for ten hours of speech.
#
# TEACHER    folder of a Whisper model for faster-whisper; only for `label`
# CHECK      model that checks the teacher's labels (default)
# SYNTHETIC  hours of synthetic speech (20); 0: none
# CONFIG     settings of the training (base.toml)
# DEVICE     auto, cpu or cuda
# LM_WEIGHT  weight of the language model in the search (0.5); choose it on dev
# MINUTES    time limit for this run of `train` and of `lm`
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../stages.sh"
begin "prepare label synthesise train average lm evaluate" "$@"
device=${DEVICE:-auto} hours=${SYNTHETIC:-20}
shopt -s nullglob

for stage in $stages; do
    echo "== $stage"
    case $stage in
        prepare)
            spellstream prepare "$speech/dev.jsonl" --output "$work/dev"
            spellstream prepare "$speech"/told/*.jsonl --output "$work/told"
            ;;
        label)
            # Each corpus separately, so that a corpus added later is labelled on its own.
            mkdir -p "$work/labels" "$work/heard"
            for corpus in "$speech"/untold/*.jsonl; do
                name=$(basename "$corpus" .jsonl)
                python -m recipes.default_model.teacher label "$corpus" --teacher "${TEACHER:?a Whisper model}" \
                    --model "${CHECK:-default}" --output "$work/labels/$name.jsonl"
                python -m recipes.default_model.teacher accept "$corpus" "$work/labels/$name.jsonl" \
                    --holdout "$speech/dev.jsonl" --holdout "$speech/test.jsonl" --output "$work/heard/$name.jsonl"
            done
            heard=("$work"/heard/*.jsonl)
            if ((${#heard[@]})); then
                spellstream prepare "${heard[@]}" --output "$work/heard-prepared"
            fi
            ;;
        synthesise)
            if [[ $hours != 0 ]]; then
                cat "$speech"/text/*.txt >"$work/sentences.txt"
                python -m recipes.default_model.synthesise "$work/sentences.txt" "$work/spoken" --hours "$hours"
                spellstream prepare "$work/spoken/synthetic.jsonl" --output "$work/synthetic"
            fi
            ;;
        train)
            # Real speech has four times the weight of synthetic speech: LOG.md, eleventh and twelfth run.
            data=(--data "$work/told@4")
            [[ -d $work/heard-prepared ]] && data+=(--data "$work/heard-prepared@4")
            [[ -d $work/synthetic ]] && data+=(--data "$work/synthetic")
            [[ -d $speech/noise ]] && data+=(--noise "$speech/noise")
            spellstream train --config "${CONFIG:-$here/base.toml}" "${data[@]}" --dev "$work/dev" --output "$work/run" \
                --device "$device" ${MINUTES:+--max-time "${MINUTES}m"}
            ;;
        average)
            spellstream average "$work/run" --output "$work/model"
            ;;
        lm)
            texts=()
            for text in "$speech"/text/*.txt; do texts+=(--text "$text"); done
            # The few transcripts are repeated, so that they count beside the many books.
            for corpus in "$speech"/told/*.jsonl; do texts+=(--text "$corpus@40"); done
            spellstream train-lm "${texts[@]}" --model "$work/model" --output "$work/lm" --device "$device" \
                ${MINUTES:+--max-minutes "$MINUTES"}
            ;;
        evaluate)
            # The language model's weight is chosen on dev, and only then is test measured.
            for set in dev test; do
                spellstream evaluate "$speech/$set.jsonl" --model "$work/model" --lm "$work/lm" --lm-weight "${LM_WEIGHT:-0.5}" \
                    --device "$device" --json "$work/$set.json"
            done
            ;;
    esac
done
