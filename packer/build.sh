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
    packer build -only "qemu.$source" -var "seed=$seed" "$@" "$here/vexfs.pkr.hcl"
