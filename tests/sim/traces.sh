#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Compares what the simulator does at two commits, byte for byte: for a change that claims to change no behaviour.
#
#   tests/sim/traces.sh BASE [SEEDS]
#
# BASE is any commit; the other side is the work tree as it stands. SEEDS is 1500 unless it is given. The traces hold every
# event, call, fact and state that the cluster of a seed goes through. Scenarios are drawn by the seed; every thirtieth seed is
# run without the plugin (scenario Programs), which no seed draws. It prints the seeds whose traces differ and keeps both sides'
# digests; it exits with 1 if there is one. BASE is built in target/traces, in a minute, since the simulator needs no AWS SDK.
set -eu

base=${1:?usage: tests/sim/traces.sh BASE [SEEDS]}
seeds=${2:-1500}
cargo=${CARGO:-cargo}
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/traces
commit=$(git rev-parse --verify "$base^{commit}")

# The simulator of the checkout in $1, built into the target folder $2; its path is printed. Until 0.2 it was an example.
build() {
    if [ -f "$1/tests/sim/Cargo.toml" ]; then
        (cd "$1" && "$cargo" build --quiet --locked --profile sim --target-dir "$2" --package slurm-ec2-fleet-sim --bin sim) >&2
        echo "$2/sim/sim"
    else
        (cd "$1" && "$cargo" build --quiet --locked --no-default-features --profile sim --target-dir "$2" --example sim) >&2
        echo "$2/sim/examples/sim"
    fi
}

# Digests of the traces of all seeds, by the simulator $1, a line each, into the file $2.
digests() {
    seq 0 $((seeds - 1)) | xargs -P "$(nproc)" -n 25 sh -c '
        sim=$1; shift
        for seed; do
            if [ $((seed % 30)) -eq 29 ]; then set -- --scenario Programs; else set --; fi
            printf "%s %s\n" "$seed" "$("$sim" --seed "$seed" "$@" | sha256sum | cut -c1-32)"
        done' sh "$1" | sort -n > "$2"
}

mkdir -p "$work"
if [ ! -d "$work/tree-$commit" ]; then
    git worktree prune
    git worktree add --quiet --detach "$work/tree-$commit" "$commit"
fi
old=$(build "$work/tree-$commit" "$work/target")
digests "$old" "$work/base.txt"
git worktree remove --force "$work/tree-$commit"
new=$(build "$PWD" "$target")
digests "$new" "$work/now.txt"

for side in base now; do
    [ "$(wc -l < "$work/$side.txt")" -eq "$seeds" ] || { echo "$side: not every seed left a trace" >&2; exit 2; }
done
differing=$(diff "$work/base.txt" "$work/now.txt" | sed -n 's/^> \([0-9]*\) .*/\1/p')
if [ -z "$differing" ]; then
    echo "$seeds seeds: every trace is the same as at $(git rev-parse --short "$commit")"
else
    echo "$(echo "$differing" | wc -l) of $seeds seeds differ from $(git rev-parse --short "$commit"):" $differing
    exit 1
fi
