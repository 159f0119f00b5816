#!/bin/sh
# Do once what enter.sh needs of a namespace: making one proves little. Under the AppArmor rules of
# Ubuntu 24.04 an ordinary user gets a namespace without capabilities, and the first mount fails.
#
# Started by `unshare` (vexrun/image/namespace.py) like enter.sh; nothing of it is left.
set -eu
if [ "$$" != 1 ]; then
    echo "probe.sh: not in a pid namespace of its own" >&2
    exit 2
fi
mount -t tmpfs -o size=1m probe /tmp
mkdir /tmp/proc
mount -t proc proc /tmp/proc
: >/tmp/file
chown 1:1 /tmp/file
exec chroot / true
