#!/usr/bin/env bash
# `wiretax gate` in a pipeline. GitHub's action.yml calls it; examples/ has GitLab and Jenkins. It reads variables:
#   BASE, HEAD   two commands; or, with COMMAND, two revisions of the repository in this folder (HEAD alone may be left out)
#   COMMAND      what each revision runs: {tree} in it is the folder with that revision's files
#   BUILD        a line for bash in each of these folders, before anything is measured
#   BUDGET       time for all launches (10m)
#   MIN_EFFECT   the slowdown in percent that fails, and that a pass excludes in every cell (5)
#   OUT          a new folder for status, summary.md, junit.xml and index.html (gate)
#   OPTIONS      further options of `wiretax gate`, such as --pairs 12
# Its exit status is the gate's, but on GitHub 3 (not enough data to tell) is a warning, and then it is 0.
set -euo pipefail
out=${OUT:-gate}
names=()  # of the sides, for page, summary and JUnit; without them the gate reads the pipeline's variables

finish() {
  # A gate that refused has no files, or those that are there are another gate's.
  local outputs=${GITHUB_OUTPUT:-/dev/null}
  echo "status=$1" >>"$outputs"
  [ "$1" = 2 ] || printf '%s\n' "summary=$out/summary.md" "junit=$out/junit.xml" "page=$out/index.html" >>"$outputs"
  if [ "$1" = 3 ] && [ "${GITHUB_ACTIONS:-}" ]; then
    echo "::warning title=wiretax gate::not enough data to tell: give it more budget, or fewer sizes"
    exit 0
  fi
  exit "$1"
}

refuse() {
  echo "gate.sh: $1" >&2
  finish 2
}

[[ $out != *$'\n'* ]] || refuse "OUT has an end of a line"
[ "${BASE:-}" ] || refuse "no base: name the command as it was, or with COMMAND its revision"
command -v wiretax >/dev/null || refuse "there is no wiretax in PATH: in a checkout of it type pip install ."
if [ "${COMMAND:-}" ]; then
  [[ $COMMAND == *'{tree}'* ]] || refuse "COMMAND has no {tree}: both revisions would run the same files"
  trees=$(mktemp -d)
  if [[ $trees =~ [^A-Za-z0-9_./-] ]]; then  # {tree} may stand in quotes, where none can be added
    rmdir "$trees"
    trees=$(TMPDIR=/tmp mktemp -d)
  fi
  trap 'for side in base head; do git worktree remove --force "$trees/$side" 2>/dev/null || true; done; rm -rf "$trees"' EXIT
  for side in base head; do
    revision=$BASE
    [ "$side" = base ] || revision=${HEAD:-HEAD}
    git rev-parse --verify --quiet --end-of-options "$revision^{commit}" >/dev/null 2>&1 ||
      refuse "$revision is no revision here: a checkout needs its history, as with fetch-depth: 0"
    names+=("--$side-name" "$(git rev-parse "$revision^{commit}") $revision")
    git worktree add --quiet --detach "$trees/$side" "$revision"
    [ -z "${BUILD:-}" ] || (cd "$trees/$side" && bash -e -c "$BUILD" >&2) || refuse "BUILD fails at $revision"
  done
  BASE=${COMMAND//'{tree}'/"$trees/base"} HEAD=${COMMAND//'{tree}'/"$trees/head"}
fi
[ "${HEAD:-}" ] || refuse "no head: name the command as it is now"

# A runner that cancels the job ends this shell: the gate has to end its launches first.
# shellcheck disable=SC2086  # options are several words
wiretax gate --base "$BASE" --head "$HEAD" --budget "${BUDGET:-10m}" --out "$out" \
  --min-effect "${MIN_EFFECT:-5}" ${names[@]+"${names[@]}"} ${OPTIONS:-} &
trap 'kill $!' INT TERM
status=0
wait $! || status=$?
[ "$status" -le 128 ] || { status=0; wait $! || status=$?; }  # the trap ended the first wait
if [ "${GITHUB_STEP_SUMMARY:-}" ] && [ "$status" != 2 ] && [ -f "$out/summary.md" ]; then
  cat "$out/summary.md" >>"$GITHUB_STEP_SUMMARY"
fi
finish "$status"
