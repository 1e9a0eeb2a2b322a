#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# test.sh [SUITE...]     the end-to-end tests with the Slurm packages of each Debian release (bookworm trixie sid)
#
# The programs, the library and the test are the ones that cargo built on this machine, the same for all: only the shim is built
# in each root, against the headers there. The list of checks of each release is printed, and kept with all output in
# target/releases/SUITE.log; the daemons' logs of a failed test are in EC2FLEET_ROOTS/scratch/SUITE/tmp.
#
# TESTS     names of tests, as the test program takes them (all but the long crash test)
# JOBS      how many tests run at the same time in a root (1)
set -eu
source=$(cd "$(dirname "$0")/../.." && pwd)
root=$source/tests/releases/root.sh
ROOTS=${EC2FLEET_ROOTS:-/var/tmp/ec2fleet-roots}
export EC2FLEET_ROOTS="$ROOTS"
[ $# -gt 0 ] || set -- bookworm trixie sid
: "${TESTS:=flow:: survival:: hibernation:: all_night:: releases:: ha:: weights::}"

cd "$source"
"${CARGO:-cargo}" build --locked --workspace
program=$("${CARGO:-cargo}" test --locked --package slurm-ec2-fleet-rig --test e2e --no-run 2>&1 | tee /dev/stderr | sed -n 's/.*Executable .*(\(.*\))$/\1/p')
[ -n "$program" ] || exit 1
program=$(realpath "$program")
# target, wherever it is: the program is in target/debug/deps.
target=$(dirname "$(dirname "$(dirname "$program")")")
mkdir -p "$target/shim" "$target/releases"

status=0
for suite; do
	"$root" make "$suite" >/dev/null
	slurm=$("$root" enter "$suite" -- slurmctld -V)
	# An old shim of another release must not be taken for this one's.
	scratch=$ROOTS/scratch/$suite
	rm -rf "$scratch"
	mkdir -p "$scratch/tmp" "$scratch/shim"
	log=$target/releases/$suite.log
	printf '\n== Debian %s: %s\n' "$suite" "$slurm" | tee "$log"
	# shellcheck disable=SC2016,SC2086 # for the shell inside; several names
	if "$root" enter "$suite" "$source" "$target" "rw:$scratch/shim=$target/shim" "rw:$scratch/tmp=/tmp" -- \
		/bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$source" \
		"$program" $TESTS --test-threads="${JOBS:-1}" >>"$log" 2>&1; then
		result=passed
	else
		result=FAILED status=1
	fi
	sed -n 's/^test \(.* \.\.\. .*\)$/  \1/p' "$log"
	printf '%s with %s: %s\n' "$result" "$slurm" "$(sed -n 's/^test result: //p' "$log")" | tee -a "$log"
	[ $result = passed ] || sed -n '/^failures:$/,$p' "$log" | head -n "${LINES_OF_FAILURE:-150}"
done
exit $status
