#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# parts.sh TARGET... - make these targets one after the other; say how long each took, and in the end all of them.
# The first that fails ends it, and what that one printed stays last.
set -eu

took() {
	printf '%s min %02d s' $(($1 / 60)) $(($1 % 60))
}

begin=$(date +%s)
table=
for part; do
	start=$(date +%s)
	printf '== make %s\n' "$part"
	"${MAKE:-make}" --no-print-directory "$part"
	seconds=$(($(date +%s) - start))
	printf '== make %s took %s\n' "$part" "$(took $seconds)"
	table="$table$(printf '  %-14s %4d s' "$part" $seconds)
"
done
printf '== all parts took %s:\n%s' "$(took $(($(date +%s) - begin)))" "$table"
