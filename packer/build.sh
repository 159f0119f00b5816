#!/bin/bash
# build.sh local|ubuntu [PACKER'S ARGUMENTS]: build, with a key that is forgotten afterwards.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=${1:?usage: packer/build.sh local|ubuntu [arguments of packer build]}
shift

seed=$(mktemp -d)
trap 'rm -rf "$seed"' EXIT
"$here/seed.sh" "$seed"
# The virtual environment's Ansible, whether or not it is active.
PATH=$here/../.venv/bin:$PATH CHECKPOINT_DISABLE=1 \
    packer build -only "qemu.$source" -var "seed=$seed" "$@" "$here/vexfs.pkr.hcl" &
packer=$!
# Whatever ends us ends Packer, which then ends the machine and removes what is half done.
trap 'kill "$packer"' INT TERM HUP
code=0
wait "$packer" || code=$?
while kill -0 "$packer" 2>/dev/null; do # the first wait was cut short by a signal
    code=0
    wait "$packer" || code=$?
done
exit "$code"
