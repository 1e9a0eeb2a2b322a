#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes sure that moto's server is installed under DIR, and prints the path of its Python.
#
#   moto.sh DIR
#
# The folder is named after the pinned requirements, so that a change of versions installs anew.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/moto-requirements.txt
venv=$1/moto-$(cksum < "$requirements" | cut -d ' ' -f 1)

mkdir -p "$1"
exec 9> "$venv.lock"
flock 9
if [ ! -e "$venv/complete" ]; then
	rm -rf "$venv"
	python3 -m venv "$venv" >&2
	"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$requirements" >&2
	touch "$venv/complete"
fi
echo "$venv/bin/python"
