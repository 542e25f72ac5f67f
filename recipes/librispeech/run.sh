#!/usr/bin/env bash
# LibriSpeech from download to table. Each stage can be run separately and repeatedly, and resumes where it was stopped:
#
#   recipes/librispeech/run.sh [OPTION ...] [STAGE ...]
#
# Stages, all of them if none is named: download prepare statistics tokenizer train average lm evaluate results
#
#   --config NAME    las_100h (if not given), las_960h, las_960h_streaming or tiny: configs/NAME.toml
#   --work DIR       folder for all output (work)
#   --corpus DIR     folder of LibriSpeech/, or for its download (WORK/corpus); existing parts are not downloaded again
#   --noise DIR      recordings of background noise to train with
#   --lm-text FILE   text to train a language model on; without it the stage lm does nothing
#   --lm-weight N    its weight in the search (0.3)
#   --device NAME    auto (if not given), cpu or cuda
#   --max-time TIME  time limit for this run of the stage train, such as 12h; the next run resumes
#   --jobs N         processes for the stage prepare (all cores)
#   --average WHAT   models to average: "--best 5" (if not given), "--last 5"
#
# Disk: 8 GB downloaded and 12 GB prepared for 100 h, 61 and 111 GB for 960 h; unpacking takes a part's size again.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../stages.sh"
command="run.sh $*"

config=las_100h work=work corpus='' noise='' lm_text='' lm_weight=0.3 device=auto max_time='' jobs=$(nproc) average=''
while [[ ${1:-} == --* ]]; do
    case $1 in
        --config | --work | --corpus | --noise | --lm-text | --lm-weight | --device | --max-time | --jobs | --average)
            name=${1#--}
            declare "${name//-/_}=${2:?"$1 needs a value"}"
            shift 2
            ;;
        --help)
            show_help
            exit 0
            ;;
        *)
            echo "run.sh: no option '$1'; see --help" >&2
            exit 2
            ;;
    esac
done
stages=$(choose_stages "download prepare statistics tokenizer train average lm evaluate results" "$@") || exit
corpus=${corpus:-$work/corpus}

# Parts for training, for the choice of models, and for the report.
choose=dev-clean report="dev-clean dev-other test-clean test-other" tokens=bpe
case $config in
    las_100h) learn="train-clean-100" vocabulary=1000 ;;
    las_960h | las_960h_streaming) learn="train-clean-100 train-clean-360 train-other-500" vocabulary=10000 ;;
    tiny) learn="dev-clean" choose="dev-other" report="dev-other" tokens=char vocabulary=40 ;;
    *)
        echo "run.sh: no config '$config' is known here" >&2
        exit 2
        ;;
esac
run="$work/$config"
mkdir -p "$run"

for stage in $stages; do
    echo "== $stage"
    case $stage in
        download)
            # shellcheck disable=SC2086 # a list of parts
            python -m recipes.librispeech.download "$corpus" $(printf '%s\n' $learn $choose $report | sort -u)
            ;;
        prepare)
            for part in $learn $choose; do
                spellstream prepare "$corpus/LibriSpeech/$part" --kind librispeech --output "$work/prepared/$part" --jobs "$jobs"
            done
            ;;
        statistics)
            for part in $learn; do
                spellstream statistics "$work/prepared/$part"
            done
            ;;
        tokenizer)
            # shellcheck disable=SC2046 # a list of options
            spellstream train-tokenizer $(printf -- "--data $work/prepared/%s " $learn) --vocab-size "$vocabulary" \
                --kind "$tokens" --output "$run/tokenizer.model"
            ;;
        train)
            # shellcheck disable=SC2046
            spellstream train --config "$here/configs/$config.toml" --set tokenizer="$run/tokenizer.model" \
                $(printf -- "--data $work/prepared/%s " $learn) --dev "$work/prepared/$choose" --output "$run/run" \
                --device "$device" ${noise:+--noise "$noise"} ${max_time:+--max-time "$max_time"}
            ;;
        average)
            # shellcheck disable=SC2086 # an option and its number
            spellstream average "$run/run" $average --output "$run/model"
            ;;
        lm)
            if [[ -n $lm_text ]]; then
                settings="$here/configs/lm_$config.toml"
                [[ -e $settings ]] || settings=''
                spellstream train-lm --text "$lm_text" --model "$run/model" --output "$run/lm" --device "$device" \
                    ${settings:+--config "$settings"}
            else
                echo "no --lm-text: no language model"
            fi
            ;;
        evaluate)
            mkdir -p "$run/scores"
            for part in $report; do
                python -m recipes.librispeech.manifest "$corpus/LibriSpeech/$part" --output "$work/$part.jsonl"
                spellstream evaluate "$work/$part.jsonl" --model "$run/model" --device "$device" --json "$run/scores/$part.json"
                if [[ -e $run/lm/lm.json ]]; then
                    spellstream evaluate "$work/$part.jsonl" --model "$run/model" --device "$device" --lm "$run/lm" \
                        --lm-weight "$lm_weight" --json "$run/scores/$part+lm.json"
                fi
            done
            ;;
        results)
            # shellcheck disable=SC2046
            python -m recipes.librispeech.results "$run/model" "$run"/scores/*.json --command "$command" \
                --data $(printf -- "$work/prepared/%s " $learn) --output "$run/RESULTS.md"
            cat "$run/RESULTS.md"
            ;;
    esac
done
