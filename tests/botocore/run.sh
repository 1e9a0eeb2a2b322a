#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The emulator's contract suite: botocore against ec2-emulator, and against moto's server where moto can.
# Makes its own Python environment (EC2FLEET_VENV, by default target/venv) from PyPI, once.
#   tests/botocore/run.sh [pytest arguments]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${EC2FLEET_VENV:-${CARGO_TARGET_DIR:-$root/target}/venv}
stamp=$venv/requirements.txt
# An environment may have outlived the Python that it was made with.
if ! cmp -s "$here/requirements.txt" "$stamp" || ! "$venv/bin/python" -c '' 2>/dev/null; then
    python3 -m venv --clear "$venv" || {
        echo "run.sh: python3 -m venv failed; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$stamp"
fi
if [ -z "${EC2_EMULATOR:-}" ]; then
    (cd "$root" && cargo build --locked --workspace --bin ec2-emulator)
    EC2_EMULATOR=${CARGO_TARGET_DIR:-$root/target}/debug/ec2-emulator
    export EC2_EMULATOR
fi
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider "$here" "$@"
