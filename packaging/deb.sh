#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# deb.sh main BUILD OUT                  slurm-ec2-fleet_VERSION_ARCH.deb from the programs in BUILD
# deb.sh node OUT                        slurm-ec2-fleet-node_VERSION_all.deb
# deb.sh shim SHIM SLURM_VERSION OUT     slurm-ec2-fleet-shim-RELEASE: SHIM was built for SLURM_VERSION (such as 24.11.5)
#
# The packages have no maintainer script that touches a state directory, a configuration or a daemon: an upgrade of the files
# leaves slurmctld running with the library it has loaded, its journal and its nodes. It takes effect with the next restart.
set -eu
umask 022
source=$(cd "$(dirname "$0")/.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/Cargo.toml" | head -n 1)
revision=${REVISION:-1}
architecture=$(dpkg --print-architecture)
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
maintainer=${MAINTAINER:-slurm-ec2-fleet maintainers <maintainers@slurm-ec2-fleet.example>}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$source" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
PLUGINS=/usr/lib/$triplet/slurm-wlm
ZSH=/usr/share/zsh/vendor-completions
FISH=/usr/share/fish/vendor_completions.d
export PLUGINS ZSH FISH

kind=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/DEBIAN"
# For dpkg-shlibdeps, which wants a source package around it.
mkdir "$work/debian"

# control PACKAGE ARCHITECTURE VERSION SECTION DEPENDS < description, and further fields from $fields
control() {
	{
		printf 'Package: %s\nVersion: %s\nArchitecture: %s\nSection: %s\nPriority: optional\n' "$1" "$3" "$2" "$4"
		printf 'Maintainer: %s\nInstalled-Size: %s\n' "$maintainer" "$(du -k -s --apparent-size "$root" | cut -f 1)"
		printf 'Depends: %s\n%s' "$5" "${fields:-}"
		printf 'Description: '
		cat
	} >"$root/DEBIAN/control"
}

# Compressed as Debian's policy says; copyright and changelog.
documentation() { # PACKAGE VERSION
	doc=$root/usr/share/doc/$1
	mkdir -p "$doc"
	cat >"$doc/copyright" <<-END
		Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
		Upstream-Name: slurm-ec2-fleet

		Files: *
		Copyright: 2026 The slurm-ec2-fleet authors
		License: GPL-3.0-or-later
		 This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public
		 License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later
		 version.
		 .
		 On Debian systems the text of the licence is in /usr/share/common-licenses/GPL-3.
	END
	cat <<-END | gzip -9n >"$doc/changelog.Debian.gz"
		$1 ($2) unstable; urgency=medium

		  * Release $version.

		 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
	END
	find "$root/usr/share/man" -type f ! -name '*.gz' -exec gzip -9n {} + 2>/dev/null || :
}

libraries() { # FILE...: the packages of the libraries that they need
	(cd "$work" && : >debian/control && dpkg-shlibdeps --ignore-missing-info -O "$@" 2>/dev/null) | sed -n 's/^shlibs:Depends=//p'
}

finish() { # OUT
	if [ -e "$source/packaging/deb/$name.lintian-overrides" ]; then
		install -D -m 644 "$source/packaging/deb/$name.lintian-overrides" "$root/usr/share/lintian/overrides/$package"
		sed -i "s/@PACKAGE@/$package/" "$root/usr/share/lintian/overrides/$package"
	fi
	(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
	find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	mkdir -p "$1"
	dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" --build "$root" "$1" | sed -n "s/.* in '\(.*\)'.*/\1/p"
}

case $kind in
main)
	BUILD=$(cd "$1" && pwd) package=slurm-ec2-fleet name=main
	export BUILD
	DOC=/usr/share/doc/$package GENERATED=$work/generated "$source/packaging/stage.sh" main "$root"
	strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root"/usr/bin/* "$root$PLUGINS"/*.so
	depends=$(libraries "$root"/usr/bin/* "$root$PLUGINS"/*.so)
	documentation "$package" "$version-$revision"
	fields="Recommends: slurm-ec2-fleet-shim
Suggests: slurmctld
"
	control "$package" "$architecture" "$version-$revision" admin "$depends, slurm-client" <<-END
		Slurm cloud nodes from Amazon EC2 Fleets
		 A plugin of slurmctld sees which nodes Slurm powers up and down, launches
		 them with EC2 Fleet, tells Slurm their addresses, and terminates them when
		 Slurm is done with them. ResumeProgram, SuspendProgram and
		 ResumeFailProgram do the same work when the plugin is not there.
		 .
		 slurmctld loads the library through a shim that is built for its exact
		 release: install the slurm-ec2-fleet-shim package of that release, or build
		 it from /usr/share/slurm-ec2-fleet/c_shim.
		 .
		 The package has an emulator of EC2 for trying it without an account.
	END
	finish "$2"
	;;
node)
	package=slurm-ec2-fleet-node name=node
	DOC=/usr/share/doc/$package "$source/packaging/stage.sh" node "$root"
	documentation "$package" "$version-$revision"
	fields="Recommends: munge
"
	for script in postinst postrm; do
		install -m 755 "$source/packaging/deb/node.$script" "$root/DEBIAN/$script"
	done
	control "$package" all "$version-$revision" admin "slurmd, slurm-client, curl, mawk | gawk | original-awk" <<-END
		Slurm compute nodes on Amazon EC2: the node's name
		 Starts slurmd under the node name that slurm-ec2-fleet has given to the
		 instance, which it finds in the instance's own metadata. For the image of
		 the compute nodes. No credentials of AWS are needed.
	END
	finish "$1"
	;;
shim)
	SHIM=$1 slurm=$2
	export SHIM
	release=${slurm%.*}
	package=slurm-ec2-fleet-shim-$release name=shim
	# The micro release after this one.
	next=$release.$((${slurm##*.} + 1))
	DOC=/usr/share/doc/$package "$source/packaging/stage.sh" shim "$root"
	strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root$PLUGINS"/*.so
	depends=$(libraries "$root$PLUGINS"/*.so)
	documentation "$package" "$version+slurm$slurm-$revision"
	fields="Provides: slurm-ec2-fleet-shim
Conflicts: slurm-ec2-fleet-shim
Replaces: slurm-ec2-fleet-shim
"
	control "$package" "$architecture" "$version+slurm$slurm-$revision" admin \
		"$depends, slurm-ec2-fleet (>= $version), slurmctld (>= $slurm), slurmctld (<< $next~)" <<-END
		Slurm cloud nodes from Amazon EC2 Fleets: plugin of Slurm $slurm
		 The plugin job_submit/ec2_fleet for slurmctld $slurm. slurmctld loads only
		 plugins that are built for its exact release, so this package goes with that
		 release alone.
	END
	finish "$3"
	;;
*)
	echo "deb.sh: unknown kind '$kind'" >&2
	exit 1
	;;
esac
