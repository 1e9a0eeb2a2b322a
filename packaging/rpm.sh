#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# rpm.sh BUILD OUT [SLURM_VERSION=SHIM...]    .rpm of the programs in BUILD, of the node side, and of each shim
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/Cargo.toml" | head -n 1)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$source" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

spec() { # SPEC DEFINE...
	file=$1
	shift
	rpmbuild --quiet -bb --define "_topdir $work" --define "_rpmdir $out" --define "source $source" \
		--define "upstream $version" --define "revision ${REVISION:-1}" \
		--define "use_source_date_epoch_as_buildtime 1" --define "_libdir /usr/lib64" --define "_lib lib64" \
		--define "_build_id_links none" --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
		"$@" "$source/packaging/rpm/$file" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		exit 1
	}
}

spec slurm-ec2-fleet.spec --define "build $build"
for shim; do
	spec slurm-ec2-fleet-shim.spec --define "slurm ${shim%%=*}" --define "shim ${shim#*=}"
done
ls "$out"/*.rpm
