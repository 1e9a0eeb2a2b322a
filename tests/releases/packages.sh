#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck disable=SC2016 # for dpkg-query
#
# packages.sh BUILD [SUITE...]    install, use, upgrade, remove and purge the packages of the programs in BUILD, in clean
#                                 roots of each Debian release; lintian, where it is installed, finds nothing
set -eu
source=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- bookworm trixie sid
root=$source/tests/releases/root.sh
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# They are thrown away: time matters more than size.
export COMPRESSION=gzip

for revision in 1 2; do
	REVISION=$revision "$source/packaging/deb.sh" main "$build" "$out/$revision"
	REVISION=$revision "$source/packaging/deb.sh" node "$out/$revision"
done
for suite; do
	"$root" make "$suite" >/dev/null
	slurm=$("$root" enter "$suite" -- dpkg-query -W -f '${source:Upstream-Version}' slurmctld)
	mkdir "$out/shim-$suite"
	"$root" enter "$suite" "$source/c_shim" "rw:$out/shim-$suite=/mnt" -- \
		make --no-print-directory -C "$source/c_shim" OUT=/mnt >/dev/null
	for revision in 1 2; do
		REVISION=$revision "$source/packaging/deb.sh" shim "$out/shim-$suite/job_submit_ec2_fleet.so" "$slurm" \
			"$out/$revision/$suite"
	done
done
# For no release that any root has.
"$source/packaging/deb.sh" shim "$out/shim-$suite/job_submit_ec2_fleet.so" 99.05.1 "$out/other"

if command -v lintian >/dev/null; then
	find "$out/1" -name '*.deb' -exec lintian --fail-on error,warning --allow-root {} +
	echo "lintian: no error, no warning"
fi
failed=0 passed=0
for suite; do
	echo "== $suite"
	if "$root" fresh "$suite" "$source/tests" "rw:$out=/media" -- "$source/tests/releases/packages-inside.sh" "$suite"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
