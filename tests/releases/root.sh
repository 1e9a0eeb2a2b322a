#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck disable=SC2016 # $ in single quotes is for apt or for the shell inside
#
# root.sh make SUITE                        make (or complete) a Debian root of its own for SUITE and print its folder
# root.sh enter SUITE [NAME=FOLDER]... -- COMMAND...
#                                           run COMMAND inside it; each FOLDER is there read-only, at its own path, under
#                                           which `rw:FOLDER` may be written
# root.sh fresh SUITE [...] -- COMMAND...   the same, and whatever COMMAND writes is forgotten afterwards
# root.sh folder SUITE                      print its folder
#
# SUITE is a Debian code name: bookworm (Slurm 22.05), trixie (24.11), sid (26.05). The roots are in EC2FLEET_ROOTS
# (/var/tmp/ec2fleet-roots), 0.9 GB each, and are kept: the second run takes no time. Packages come from where this machine's
# own apt gets them. It needs root, debootstrap and iproute2.
#
# A command runs in mount, process, network and host name spaces of its own: whatever it mounts, starts and listens on is
# gone when it ends, and nothing of this machine is reached but the folders that were named.
set -eu


# What a root has beside Debian's smallest system: Slurm with munge, and what builds the shim.
PACKAGES="curl gcc make libc6-dev libslurm-dev munge slurmctld slurmd slurm-client ca-certificates procps iproute2"
# job_submit/lua, where Slurm's plugins are packaged one by one.
OPTIONAL="slurm-wlm-job-submit-lua-plugin slurm-wlm-plugins"

fail() {
	echo "root.sh: $*" >&2
	exit 1
}

# The mirror of the main archive, as apt on this machine is told; the options of its configuration files go along.
mirror() {
	apt-get indextargets --no-release-info --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk '$3 == "main" && $2 !~ /-(security|updates|backports)$/ { print $1; exit }'
}

make_root() {
	suite=$1
	root=$ROOTS/$suite
	mkdir -p "$ROOTS"
	if [ ! -e "$root/.complete" ]; then
		command -v debootstrap >/dev/null || fail "debootstrap is not installed: apt-get install debootstrap iproute2"
		site=$(mirror)
		[ -n "$site" ] || fail "apt on this machine names no Debian archive; see /etc/apt/sources.list"
		rm -rf --one-file-system "$root"
		debootstrap --variant=minbase "$suite" "$root" "$site" >"$ROOTS/$suite.log" 2>&1 ||
			fail "debootstrap $suite failed; see $ROOTS/$suite.log"
		cp -f /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf.d/*artifact* "$root/etc/apt/apt.conf.d/" 2>/dev/null || :
		# Nothing is started by installing it.
		printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
		chmod 755 "$root/usr/sbin/policy-rc.d"
		printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
		: >"$root/.complete"
	fi
	# A list that grew since the root was made is made up for.
	if [ "$(cat "$root/.packages" 2>/dev/null)" != "$PACKAGES $OPTIONAL" ]; then
		cp /etc/resolv.conf "$root/etc/resolv.conf"
		in_root "$root" /bin/sh -c '
			export DEBIAN_FRONTEND=noninteractive
			apt-get update
			known=
			for package in '"$OPTIONAL"'; do
				if [ -n "$(apt-cache show --no-all-versions "$package" 2>/dev/null)" ]; then known="$known $package"; fi
			done
			apt-get install -y --no-install-recommends '"$PACKAGES"' $known
			apt-get clean' >>"$ROOTS/$suite.log" 2>&1 || fail "installing in $root failed; see $ROOTS/$suite.log"
		printf '%s' "$PACKAGES $OPTIONAL" >"$root/.packages"
	fi
	echo "$root"
}

# For apt: the machine's network, nothing else of it.
in_root() {
	root=$1
	shift
	unshare --mount --pid --fork --kill-child --propagation private -- /bin/sh -c '
		root=$1; shift
		mount --bind "$root" "$root"
		mount -t proc proc "$root/proc"
		mount --rbind /dev "$root/dev"
		exec chroot "$root" "$@"' sh "$root" "$@"
}

enter() {
	root=$ROOTS/$1
	shift
	[ -e "$root/.packages" ] || fail "there is no root $root: make it first"
	folders=
	while [ "$1" != -- ]; do
		folders="$folders $1"
		shift
	done
	shift
	unshare --mount --pid --net --uts --fork --kill-child --propagation private -- /bin/sh -c '
		set -e
		root=$1 folders=$2 fresh=$3
		shift 3
		hostname localhost
		ip link set lo up
		# getaddrinfo with AI_ADDRCONFIG, as Slurm asks it, resolves nothing where 127.0.0.1 is the only address.
		ip address add 127.0.0.2/8 dev lo
		if [ "$fresh" = yes ]; then
			mount -t tmpfs tmpfs /mnt
			mkdir /mnt/written /mnt/work /mnt/root
			mount -t overlay overlay -o "lowerdir=$root,upperdir=/mnt/written,workdir=/mnt/work" /mnt/root
			root=/mnt/root
		else
			mount --bind "$root" "$root"
		fi
		mount -t proc proc "$root/proc"
		mount --rbind /dev "$root/dev"
		# slurmd asks for the cgroup file system even where nothing uses it (22.05 has no way to tell it not to).
		mount --rbind /sys "$root/sys"
		for folder in $folders; do
			case $folder in
			rw:*=*) folder=${folder#rw:}; from=${folder%%=*} to=${folder#*=} option=rw ;;
			*) from=$folder to=$folder option=ro ;;
			esac
			mkdir -p "$root$to"
			mount --rbind "$from" "$root$to"
			[ $option = rw ] || mount -o remount,bind,ro "$root$to"
		done
		exec chroot "$root" "$@"' sh "$root" "$folders" "$fresh" "$@" &
	inside=$!
	# unshare itself ignores these; its end ends all that runs inside.
	trap 'kill -KILL $inside' INT TERM HUP
	wait "$inside"
}

fresh=no
ROOTS=${EC2FLEET_ROOTS:-/var/tmp/ec2fleet-roots}
[ "$(id -u)" = 0 ] || fail "chroot and debootstrap need root"
command=${1:-}
[ $# -gt 1 ] || fail "usage: root.sh make|enter|fresh|folder SUITE ..."
shift
case $command in
make) make_root "$1" ;;
enter) enter "$@" ;;
fresh) fresh=yes enter "$@" ;;
folder) echo "$ROOTS/$1" ;;
*) fail "unknown command '$command'" ;;
esac
