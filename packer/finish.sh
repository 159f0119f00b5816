#!/bin/sh
# In the guest, last: what belongs to this build goes, so that every copy begins as a new machine.
set -eu
if mountpoint -q /mnt/vexfs-src; then
    echo "The source tree was shared:" /mnt/vexfs-src/*
    umount /mnt/vexfs-src
fi
apt-get -q clean
# cloud-init makes host keys and account at the next boot, from the seed that it is given then.
cloud-init clean --logs
rm -f /root/.ssh/authorized_keys /etc/ssh/ssh_host_*
: >/etc/machine-id
echo "$BUILT_BY" >/etc/vexrun-packer
fstrim / || true # the disk's copy is smaller then
sync
