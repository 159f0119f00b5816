#!/bin/sh
# Run a command inside a root filesystem, in mount, pid, uts and ipc namespaces of its own.
#
# usage: enter.sh ROOT READONLY NBINDS [SRC DST MODE]... -- COMMAND [ARG]...
#   READONLY  1: the root filesystem is mounted read-only, only rw binds can be written
#   SRC DST   bind the host path SRC at DST (below ROOT); MODE is ro or rw
#
# Started by `unshare` (vexrun/image/namespace.py), so the mounts made here exist nowhere
# else and vanish with the last process. Works in a user namespace too: no mknod, no loop
# device; device nodes are bind mounts of the host's.
set -eu

root=$1 readonly=$2 binds=$3
shift 3

# In a user namespace the flags of the mount below are locked, so they must be named again.
make_readonly() {
    mount -o remount,bind,ro,nosuid,nodev "$1" 2>/dev/null ||
        mount -o remount,bind,ro,nosuid,nodev,noexec "$1" 2>/dev/null ||
        mount -o remount,bind,ro,nosuid,nodev,noatime "$1"
}

make_readonly_proc() { # procfs is always mounted noexec
    mount -o remount,bind,ro,nosuid,nodev,noexec "$1"
}

mount --rbind "$root" "$root"
i=0
while [ "$i" -lt "$binds" ]; do
    src=$1 dst=$2 mode=$3
    shift 3
    if [ ! -d "$root$dst" ]; then mkdir -p "$root$dst"; fi
    mount --bind "$src" "$root$dst"
    if [ "$mode" = ro ]; then
        make_readonly "$root$dst"
    fi
    i=$((i + 1))
done
[ "$1" = -- ] && shift

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
# A package script or a Makefile is root in here: the host's own kernel must be out of its reach.
for part in sys irq bus; do
    if [ -d "$root/proc/$part" ]; then
        mount --bind "$root/proc/$part" "$root/proc/$part"
        make_readonly_proc "$root/proc/$part"
    fi
done
if [ -e "$root/proc/sysrq-trigger" ]; then
    mount --bind /dev/null "$root/proc/sysrq-trigger"
fi
mount -t tmpfs -o nosuid,mode=755,size=1m dev "$root/dev"
for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o nosuid,nodev,mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t tmpfs -o nosuid,nodev,mode=755 run "$root/run"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmp "$root/tmp"
if [ -e /etc/resolv.conf ] && [ -e "$root/etc/resolv.conf" ] && [ ! -L "$root/etc/resolv.conf" ]; then
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
    make_readonly "$root/etc/resolv.conf" # a postinst must not write the host's file
fi
if [ "$readonly" = 1 ]; then
    make_readonly "$root"
fi
hostname vexrun-image

# Root in here never gets what could reach the host's kernel or hardware: a package script that
# runs modprobe must fail.
exec chroot "$root" /usr/bin/setpriv \
    --bounding-set=-sys_module,-sys_rawio,-sys_boot,-sys_time,-mknod -- /usr/bin/env -i \
    HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 LC_ALL=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive \
    "$@"
