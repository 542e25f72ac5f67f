#!/usr/bin/env bash
# Makes the default model from nothing. Each stage can be run alone and again:
#
#   recipes/default_model/run.sh SPEECH WORK [STAGE ...]      stages: pack start all evaluate install
#
# SPEECH holds core.jsonl, dev.jsonl, test.jsonl and noise/ (see the model card for what is in them), and may hold a
# folder `more` with further manifests. WORK takes everything that is made: about 5 GB. A stage that was killed goes on
# where it was when it is started again. DEVICE (auto, cpu, cuda) and MINUTES (limit of each training run) may be set.
set -euo pipefail

here=$(dirname "$0")
speech=${1:?usage: run.sh SPEECH WORK [STAGE ...]}
work=${2:?usage: run.sh SPEECH WORK [STAGE ...]}
shift 2
stages=${*:-pack start all evaluate install}
device=${DEVICE:-auto}
limit=${MINUTES:+--max-minutes $MINUTES}

for stage in $stages; do
    echo "== $stage"
    case $stage in
        pack)
            spellstream pack "$speech/dev.jsonl" --output "$work/dev"
            # The first run meets clean speech first: the core, and three readers.
            spellstream pack "$speech/core.jsonl" "$speech"/more/{kathleen,ljspeech,train-clean-3}.jsonl --output "$work/start"
            spellstream pack "$speech/core.jsonl" "$speech"/more/*.jsonl --output "$work/all"
            ;;
        start | all)
            config=$(ls "$here"/*_"$stage".toml)
            # Configs name the model they begin with relative to WORK.
            (cd "$work" && spellstream train --config "$OLDPWD/$config" --data "$stage" --dev dev --output "run-$stage" \
                --noise "$(cd "$OLDPWD" && cd "$speech" && pwd)/noise" --device "$device" $limit)
            ;;
        evaluate)
            spellstream evaluate "$speech/dev.jsonl" --model "$work/run-all/best" --json "$work/dev.json"
            spellstream evaluate "$speech/test.jsonl" --model "$work/run-all/best" --json "$work/test.json"
            ;;
        install)
            cp "$work"/run-all/best/{model.safetensors,config.json,tokenizer.model} "$here/../../asr/pretrained/default/"
            ;;
        *)
            echo "run.sh: no stage '$stage'" >&2
            exit 2
            ;;
    esac
done
