#!/usr/bin/env bash
# Makes the default model from nothing. Each stage can be run alone and again:
#
#   recipes/default_model/run.sh SPEECH WORK [STAGE ...]      stages: pack start contexts all streams evaluate install
#
# SPEECH holds core.jsonl, dev.jsonl, test.jsonl and noise/ (see the model card for what is in them), and may hold a
# folder `more` with further manifests. WORK takes everything that is made: about 5 GB. A stage that was killed goes on
# where it was when it is started again. DEVICE (auto, cpu, cuda) and MINUTES (limit of each training run) may be set.
set -euo pipefail

usage="usage: run.sh SPEECH WORK [STAGE ...]"
here=$(cd "$(dirname "$0")" && pwd)
speech=$(cd "${1:?$usage}" && pwd)
mkdir -p "${2:?$usage}"
work=$(cd "$2" && pwd)
shift 2
stages=${*:-pack start contexts all streams evaluate install}
device=${DEVICE:-auto}
limit=${MINUTES:+--max-minutes $MINUTES}

for stage in $stages; do
    echo "== $stage"
    case $stage in
        pack)
            spellstream pack "$speech/dev.jsonl" --output "$work/dev"
            # The first run meets clean speech first: the core, and three readers.
            spellstream pack "$speech/core.jsonl" "$speech"/more/{kathleen,ljspeech,train-clean-3}.jsonl --output "$work/start"
            spellstream pack "$speech/core.jsonl" "$speech"/more/{kathleen,ljspeech,train-clean-3,common-voice-13}.jsonl --output "$work/all"
            ;;
        start | contexts | all | streams)
            # Configs name the model that they begin with relative to WORK.
            config=$(ls "$here"/?_"$stage".toml)
            case $stage in all | streams) data=all ;; *) data=start ;; esac
            (cd "$work" && spellstream train --config "$config" --data "$data" --dev dev --output "run-$stage" \
                --noise "$speech/noise" --device "$device" $limit)
            ;;
        evaluate)
            spellstream evaluate "$speech/dev.jsonl" --model "$work/run-streams/best" --json "$work/dev.json"
            spellstream evaluate "$speech/test.jsonl" --model "$work/run-streams/best" --json "$work/test.json"
            ;;
        install)
            cp "$work"/run-streams/best/{model.safetensors,config.json,tokenizer.model} "$here/../../asr/pretrained/default/"
            ;;
        *)
            echo "run.sh: no stage '$stage'" >&2
            exit 2
            ;;
    esac
done
