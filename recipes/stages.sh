# shellcheck shell=bash
# For recipes that are run in stages; to be sourced.

# The stages to run: those that are asked for, or all of them. One that there is not ends the recipe before it begins.
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
