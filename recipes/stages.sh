# shellcheck shell=bash
# Functions for recipes in stages; to be sourced.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" # so that `python -m recipes...` works in every folder

# Print the comment at the top of a recipe, up to its `set` line.
show_help() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
}

# Print the stages to run: the requested ones, or all. An unknown one ends the recipe before it begins.
#   stages=$(choose_stages "ALL OF THEM" [STAGE ...]) || exit
choose_stages() {
    local all=$1 stage
    shift
    for stage in "$@"; do
        if [[ " $all " != *" $stage "* ]]; then
            echo "run.sh: no stage '$stage'" >&2
            return 2
        fi
    done
    echo "${*:-$all}"
}

# Start a recipe on existing speech: set $speech, $work and $stages, and $shipped, the folder of the shipped model.
#   begin "ALL STAGES" SPEECH WORK [STAGE ...]
# shellcheck disable=SC2034 # the recipe reads them
begin() {
    local all=$1 usage="usage: run.sh SPEECH WORK [STAGE ...]"
    shift
    if [[ ${1:-} == --help ]]; then
        show_help
        exit 0
    fi
    speech=$(cd "${1:?$usage}" && pwd)
    mkdir -p "${2:?$usage}"
    work=$(cd "$2" && pwd)
    shift 2
    stages=$(choose_stages "$all" "$@") || exit
    shipped="$root/asr/pretrained/default"
}
