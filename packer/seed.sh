#!/bin/bash
# seed.sh DIRECTORY: a key of its own for one build, and the cloud-init seed that lets it in as root.
# Only DIRECTORY/http is served to the guest.
set -euo pipefail
directory=$1

mkdir -p "$directory/http"
ssh-keygen -q -t ed25519 -N '' -C packer -f "$directory/key"
printf 'instance-id: packer-%s\nlocal-hostname: vexrun\n' "$(date +%s)" >"$directory/http/meta-data"
# `users: []`: no default user is made, and the key is root's.
cat >"$directory/http/user-data" <<EOF
#cloud-config
users: []
disable_root: false
ssh_pwauth: false
ssh_authorized_keys:
  - $(cat "$directory/key.pub")
EOF
