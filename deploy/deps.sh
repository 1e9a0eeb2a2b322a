#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# deps.sh PACKAGE... - install what is missing of these Debian packages.
# Without root it prints the line to run; without dpkg it says what is needed and leaves the rest to the user.
set -eu

if ! command -v dpkg-query >/dev/null; then
	echo "This system has no dpkg. Install what corresponds to: $*" >&2
	exit 0
fi

missing=
for package; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=absent
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "System packages are missing. Run this line, then try again:" >&2
	echo "  sudo apt-get update && sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086 # one word a package
apt-get install -y --no-install-recommends $missing
