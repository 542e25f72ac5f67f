#!/usr/bin/env bash
# Makes the default model from nothing. Each stage can be run alone and again:
#
#   recipes/default_model/history/run.sh SPEECH WORK [STAGE ...]      stages: prepare start contexts all streams longer last further
#                                                             settled sampled mean synthetic finer voices more blend lm
#                                                             install evaluate
#
# SPEECH holds core.jsonl, dev.jsonl, test.jsonl and noise/ (see the model card for what is in them), and a folder `more` with
# {kathleen,ljspeech,train-clean-3,common-voice-13,speechocean}.jsonl and books.txt. WORK takes everything that is made: about
# 11 GB. The stage `synthetic` needs Debian's espeak-ng, flite and festival with its voices. A stage that was killed goes on
# where it was when it is started again. DEVICE (auto, cpu, cuda) and MINUTES (limit of each training run) may be set.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../stages.sh"
begin "prepare start contexts all streams longer last further settled sampled mean synthetic finer voices more blend lm install evaluate" "$@"
device=${DEVICE:-auto}
limit=${MINUTES:+--max-time ${MINUTES}m}
search="beam_size=16 ctc_weight=0.3 lm_weight=0.8 internal_lm_share=0.57 length_bonus=0.6" # what dev chose for the recogniser and the language model together

# The mean of models, each as often as it is named.
mean() {
    python - "$@" <<'PYTHON'
import sys
from pathlib import Path
from asr.training.average import average
output, *models = map(Path, sys.argv[1:])
average(models, output)
PYTHON
}

for stage in $stages; do
    echo "== $stage"
    case $stage in
        prepare)
            spellstream prepare "$speech/dev.jsonl" --output "$work/dev"
            # The first run meets clean speech first: the core, and three readers.
            spellstream prepare "$speech/core.jsonl" "$speech"/more/{kathleen,ljspeech,train-clean-3}.jsonl \
                --output "$work/start"
            spellstream prepare "$speech/core.jsonl" "$speech"/more/{kathleen,ljspeech,train-clean-3,common-voice-13}.jsonl \
                --output "$work/all"
            spellstream prepare "$speech/more/speechocean.jsonl" --output "$work/speechocean"
            ;;
        start | contexts | all | streams | longer | last | further | settled | sampled | finer | voices | more)
            # Configs name the model that they begin with relative to WORK.
            config=$(ls "$here"/*_"$stage".toml)
            case $stage in
                start | contexts) data="--data start" ;;
                last | further | settled | sampled) data="--data all --data speechocean" ;;
                finer) data="--data all --data speechocean --data synthetic-3.7" ;;
                voices) data="--data all@2 --data speechocean@2 --data synthetic-20" ;;
                more) data="--data all@4 --data speechocean@4 --data synthetic-20" ;;
                *) data="--data all" ;;
            esac
            (cd "$work" && spellstream train --config "$config" $data --dev dev --output "run-$stage" \
                --noise "$speech/noise" --device "$device" $limit)
            ;;
        mean)
            # Of two runs, the ninth counting three fifths.
            settled=$work/run-settled/best sampled=$work/run-sampled/best
            mean "$work/mean" "$settled" "$settled" "$sampled" "$sampled" "$sampled"
            ;;
        blend)
            mean "$work/blend" "$work"/run-{voices,more}/best
            ;;
        synthetic)
            # First for the tenth run, then for those after it: the longer goes on from the shorter.
            for hours in 3.7 20; do
                python -m recipes.default_model.synthesise "$speech/more/books.txt" "$work/spoken" --hours "$hours"
                spellstream prepare "$work/spoken/synthetic.jsonl" --output "$work/synthetic-$hours"
            done
            ;;
        lm)
            # The few transcripts are heard among the many books; the time is what the rate falls by.
            texts=()
            for corpus in "$speech"/core "$speech"/more/{kathleen,ljspeech,train-clean-3,common-voice-13}; do
                texts+=(--text "$corpus.jsonl@40")
            done
            spellstream train-lm --text "$speech/more/books.txt" "${texts[@]}" --tokenizer "$work/run-start/tokenizer.model" \
                --output "$work/lm" --device "$device" --max-minutes "${MINUTES:-295}"
            ;;
        install)
            cp "$work"/blend/{model.safetensors,config.json,tokenizer.model} "$work"/lm/lm.{safetensors,json} "$shipped"
            python - "$shipped/config.json" $search <<'PYTHON'
import json, sys
path, *settings = sys.argv[1:]
config = json.load(open(path))
config["search"].update({name: json.loads(value) for name, value in (setting.split("=") for setting in settings)})
open(path, "w").write(json.dumps(config, indent=2) + "\n")
PYTHON
            ;;
        evaluate)
            spellstream evaluate "$speech/dev.jsonl" --json "$work/dev.json"
            spellstream evaluate "$speech/test.jsonl" --json "$work/test.json"
            ;;
    esac
done
