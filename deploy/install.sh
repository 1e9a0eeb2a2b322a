#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# install.sh BUILD SHIM PROGRAM... - copy what was built into DESTDIR/PREFIX; called by `make install`.
# PLUGIN_DIR: Slurm's plugin folder, found from the installed Slurm if not given.
set -eu
build=$1
shim=$2
shift 2
source=$(dirname "$0")

plugin_dir() {
	for folder in /usr/lib64/slurm /usr/lib/*/slurm-wlm /usr/lib/*/slurm /usr/lib/slurm /usr/local/lib/slurm /opt/slurm/lib/slurm; do
		if [ -e "$folder/auth_munge.so" ]; then
			echo "$folder"
			return
		fi
	done
	echo "install.sh: no installed Slurm was found; name its plugin folder: make install PLUGIN_DIR=..." >&2
	return 1
}

plugins=${PLUGIN_DIR:-}
[ -n "$plugins" ] || plugins=$(plugin_dir)

put() { # MODE FILE FOLDER [OPTION]
	install ${4:+"$4"} -D -m "$1" "$2" "$DESTDIR$3/$(basename "$2")"
	echo "$3/$(basename "$2")"
}

# Without what only a debugger reads, which is nine tenths of each file.
put_stripped() {
	put 755 "$1" "$2" --strip
}

# Never write over a library that slurmctld has mapped: install(1) removes the old file first.
put_stripped "$shim" "$plugins"
put_stripped "$build/libslurm_ec2_fleet.so" "$plugins"
for program; do
	put_stripped "$build/$program" "$PREFIX/bin"
done
put 755 "$source/node/ec2fleet-node" "$PREFIX/libexec/slurm-ec2-fleet"
put 755 "$source/node/ec2fleet-sleep" "$PREFIX/libexec/slurm-ec2-fleet"
share=$PREFIX/share/slurm-ec2-fleet
for file in "$source"/node/*.conf "$source"/node/*.service "$source"/slurmctld/* "$source"/grafana/*; do
	put 644 "$file" "$share/$(basename "$(dirname "$file")")"
done
