#!/usr/bin/env bash
# One Linux machine: one run a seed in OUT/seed-N, JOBS at a time, then their median in OUT/submission.csv.
#
#   DATA=data OUT=runs OPTIONS="--molecules morgan" docker/jobs/xargs.sh
#
# Calling it again goes on: finished seeds are kept, the others go on from their finished fits. docs/guide/batch.md.
set -euo pipefail

refuse() {
  echo "error: $*" >&2
  exit 2
}

export PROGRAM=${PROGRAM:-rapids-perturb}
export DATA=${DATA:-} # folder with the two files that follow
export TRAIN=${TRAIN:-de_train.parquet}
export TEST=${TEST:-id_map.csv}
export OUT=${OUT:-}            # folder for the runs, made where it is missing
SEEDS=${SEEDS:-$(seq -s ' ' 0 4)}
JOBS=${JOBS:-1}                # runs at a time; leave it at 1 for one GPU
export DEVICE=${DEVICE:-auto}
export OPTIONS=${OPTIONS:-}    # more options of `rapids-perturb run`, such as "--recipe published --molecules morgan"

[[ -n $DATA ]] || refuse "DATA is not set; set DATA=FOLDER, which has $TRAIN and $TEST"
[[ -r $DATA/$TRAIN ]] || refuse "DATA: $DATA/$TRAIN cannot be read; set DATA=FOLDER, or TRAIN=NAME of a file in it"
[[ -r $DATA/$TEST ]] || refuse "DATA: $DATA/$TEST cannot be read; set DATA=FOLDER, or TEST=NAME of a file in it"
[[ -n $OUT ]] || refuse "OUT is not set; set OUT=FOLDER for the runs"
read -r -a seeds <<<"$SEEDS"
[[ ${#seeds[@]} -gt 0 && "${seeds[*]}" =~ ^[0-9\ ]+$ ]] || refuse "SEEDS is '$SEEDS'; set SEEDS=\"0 1 2\""
for tool in "$PROGRAM" taskset; do
  command -v "$tool" >/dev/null || refuse "$tool is not in PATH; activate the environment that has it, or install it"
done

# Every run gets its own cores. It looks at the cores it may use, so they are set, not only the number of threads.
cores=()
IFS=, read -r -a ranges <<<"$(awk '/^Cpus_allowed_list:/ {print $2}' /proc/self/status)"
for range in "${ranges[@]}"; do
  while read -r core; do cores+=("$core"); done < <(seq "${range%-*}" "${range#*-}")
done
[[ $JOBS =~ ^[1-9][0-9]*$ && $JOBS -le ${#cores[@]} ]] ||
  refuse "JOBS is '$JOBS'; set it to 1 to ${#cores[@]}, the cores of this machine"
export CORES="${cores[*]}" OMP_NUM_THREADS=$((${#cores[@]} / JOBS))
mkdir -p "$OUT" || refuse "OUT: $OUT cannot be made; set OUT=FOLDER"

run_seed() {
  local run=$OUT/seed-$1 log=$OUT/seed-$1.log cores options code=0
  if [[ -e $run/manifest.json ]]; then # written last, when everything else is there
    echo "seed $1: finished before, $run is kept"
    return
  fi
  read -r -a cores <<<"$CORES"
  cores=("${cores[@]:SLOT*OMP_NUM_THREADS:OMP_NUM_THREADS}")
  read -r -a options <<<"$OPTIONS"
  taskset --cpu-list "$(IFS=, && echo "${cores[*]}")" "$PROGRAM" run --train "$DATA/$TRAIN" --test "$DATA/$TEST" \
    --out "$run" --seed "$1" --device "$DEVICE" "${options[@]}" >"$log" 2>&1 || code=$?
  if [[ $code -ne 0 ]]; then
    echo "error: seed $1 ended with exit code $code: $(tail -n 1 "$log") (all it printed: $log)" >&2
    return
  fi
  echo "seed $1: done, $run"
}
export -f run_seed

# shellcheck disable=SC2016  # the inner bash reads $1
printf '%s\n' "${seeds[@]}" |
  xargs --max-procs="$JOBS" --max-args=1 --process-slot-var=SLOT bash -c 'set -uo pipefail; run_seed "$1"' run_seed

runs=() missing=() # a seed without a manifest failed, whatever the reason
for seed in "${seeds[@]}"; do
  if [[ -e $OUT/seed-$seed/manifest.json ]]; then
    runs+=(--run "$OUT/seed-$seed")
  else
    missing+=("$seed")
  fi
done
if [[ ${#missing[@]} -gt 0 ]]; then
  echo "error: not combined, no result of seed ${missing[*]}; see what it printed, then call this again to go on" >&2
  exit 1
fi
"$PROGRAM" submit "${runs[@]}" --out "$OUT/submission.csv" --overwrite
