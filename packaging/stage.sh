#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# stage.sh PACKAGE FOLDER    put the files of PACKAGE (main, node or shim, see packaging/files) below FOLDER
#
# Environment: BUILD (folder of the built programs), SHIM (the shim), PLUGINS, DOC, ZSH, FISH (target folders),
# GENERATED (a scratch folder: man pages and completions are made there by ec2fleet itself).
# shellcheck disable=SC2154 # value is set by eval
set -eu
package=$1
folder=$2
source=$(cd "$(dirname "$0")/.." && pwd)
GENERATED=${GENERATED:-$folder.generated}
export GENERATED

# Made by the program, so that they say what it does.
if [ "$package" = main ] && [ ! -e "$GENERATED/.made" ]; then
	mkdir -p "$GENERATED/man1" "$GENERATED/man8"
	"$BUILD/ec2fleet" man "$GENERATED/man1" >/dev/null
	mv "$GENERATED"/man1/*.8 "$GENERATED/man8/"
	for shell in bash:ec2fleet.bash zsh:_ec2fleet fish:ec2fleet.fish; do
		"$BUILD/ec2fleet" completions "${shell%%:*}" >"$GENERATED/${shell#*:}"
	done
	: >"$GENERATED/.made"
fi

put() { # MODE FILE TARGET
	case $3 in
	*/) target=$3$(basename "$2") ;;
	*) target=$3 ;;
	esac
	install -D -m "$1" "$2" "$folder$target"
}

grep -v '^#' "$source/packaging/files" | while read -r of mode from to; do
	[ "$of" = "$package" ] || continue
	for name in BUILD SHIM PLUGINS DOC ZSH FISH GENERATED; do
		eval "value=\${$name:-}"
		from=$(printf '%s' "$from" | sed "s|@$name@|$value|")
		to=$(printf '%s' "$to" | sed "s|@$name@|$value|")
	done
	case $from in /*) ;; *) from=$source/$from ;; esac
	if [ ! -e "$from" ]; then
		echo "stage.sh: $from is missing" >&2
		exit 1
	fi
	case $from in
	*/) for file in "$from"*; do
		case $file in *.so | *.o) continue ;; esac
		if [ -f "$file" ]; then put "$mode" "$file" "$to"; fi
	done ;;
	*) put "$mode" "$from" "$to" ;;
	esac
done
