#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck disable=SC2016 # for dpkg-query
#
# build.sh BUILD OUT [SUITE...]   .deb (and .rpm where rpmbuild is installed) of the programs in BUILD and of a shim for the
#                                 Slurm of each Debian root (tests/releases/root.sh): bookworm trixie sid
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift 2
[ $# -gt 0 ] || set -- bookworm trixie sid
root=$source/tests/releases/root.sh

"$source/packaging/deb.sh" main "$build" "$out"
"$source/packaging/deb.sh" node "$out"
shims=
for suite; do
	"$root" make "$suite" >/dev/null
	slurm=$("$root" enter "$suite" -- dpkg-query -W -f '${source:Upstream-Version}' slurmctld)
	mkdir -p "$out/shim-$slurm"
	"$root" enter "$suite" "$source/c_shim" "rw:$out/shim-$slurm=/mnt" -- \
		make --no-print-directory -C "$source/c_shim" OUT=/mnt >/dev/null
	"$source/packaging/deb.sh" shim "$out/shim-$slurm/job_submit_ec2_fleet.so" "$slurm" "$out"
	shims="$shims $slurm=$out/shim-$slurm/job_submit_ec2_fleet.so"
done
if command -v rpmbuild >/dev/null; then
	# shellcheck disable=SC2086 # one word a shim
	"$source/packaging/rpm.sh" "$build" "$out" $shims
fi
