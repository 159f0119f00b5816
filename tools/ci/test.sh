#!/bin/bash
# test.sh OUT ARGUMENTS...: 'vexrun test ARGUMENTS', with everything a CI system shows in OUT.
#
# OUT gets junit.xml, report.html, report.md, results.json and the whole run below state/. Ends as
# vexrun ended. BUDGET_MINUTES, if set, is shown beside the time it took.
set -euo pipefail
out=$1
shift

if [ -e "$out/state" ]; then
    echo "'$out' holds an earlier run: give every run a directory of its own." >&2
    exit 2
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)

# A state directory of its own: what is shown can only be of this run.
export VEXRUN_STATE_DIR=$out/state
begun=$SECONDS
code=0
vexrun test "$@" || code=$?
took=$((SECONDS - begun))

run=$VEXRUN_STATE_DIR/runs/latest
if [ -f "$run/results.json" ]; then
    cp "$run"/{junit.xml,report.html,report.md,results.json} "$out"
else
    printf '### ❌ vexrun ended with exit status %s, and there was no run\n' "$code" >"$out/report.md"
fi

time="$((took / 60)) min $((took % 60)) s"
over=
if [ -n "${BUDGET_MINUTES:-}" ]; then
    time+=" of a budget of $BUDGET_MINUTES min"
    if [ "$took" -gt $((BUDGET_MINUTES * 60)) ]; then over=true; fi
fi
printf '\n_The tests took %s%s._\n' "$time" "${over:+: over it}" >>"$out/report.md"
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    cat "$out/report.md" >>"$GITHUB_STEP_SUMMARY"
    if [ -n "$over" ]; then echo "::warning title=vexrun::It took $time."; fi
    case $code in
        0) ;;
        1) echo "::error title=vexrun::The module failed: see the job summary and report.html." ;;
        *) echo "::error title=vexrun::Nothing is known about the module (exit status $code)." ;;
    esac
fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    echo "exit-code=$code" >>"$GITHUB_OUTPUT"
fi
exit "$code"
