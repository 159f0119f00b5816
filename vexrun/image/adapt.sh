#!/bin/sh
# Inside an unpacked cloud image, before the roles: what only its old disk and loader needed goes,
# and our cloud-init seed comes. /srv holds the seed (vexrun/image/importing.py).
#
# usage: adapt.sh files|lists|kernels [ROOT]    ROOT is for tests: where / is meant
set -eu
step=$1
root=${2:-}

files() {
    if [ -d "$root/etc/cloud" ]; then
        seed=$root/var/lib/cloud/seed/nocloud
        install -D -m 600 "$root/srv/user-data" "$seed/user-data"
        install -D -m 644 "$root/srv/meta-data" "$seed/meta-data"
        install -D -m 644 "$root/srv/cloud.cfg" "$root/etc/cloud/cloud.cfg.d/99-vexrun.cfg"
        # What it remembers of an instance it has been.
        for name in instance instances data sem; do rm -rf "$root/var/lib/cloud/$name"; done
        # The network of a machine that it has been, an image of Packer's for one: sorted before ours.
        rm -f "$root"/etc/systemd/network/10-cloud-init-* "$root/etc/netplan/50-cloud-init.yaml" \
            "$root/etc/network/interfaces.d/50-cloud-init"
    else
        echo "note: The image has no cloud-init, so the seed's user is not made in it."
    fi
    # Its other entries are the EFI partition and a /boot that are not here: 90 s of waiting each.
    echo "LABEL=vexrun-root / ext4 errors=remount-ro,noatime 0 0" >"$root/etc/fstab"
    # A link into /run, where in a build there is nothing; the role writes the file at each boot.
    if [ -L "$root/etc/resolv.conf" ] || [ ! -e "$root/etc/resolv.conf" ]; then
        rm -f "$root/etc/resolv.conf"
        : >"$root/etc/resolv.conf"
    fi
    # No boot loader starts this image, and grub-probe would look for the disk of its own root.
    for when in postinst postrm; do
        hook=$root/etc/kernel/$when.d/zz-update-grub
        if [ -e "$hook" ]; then chmod a-x "$hook"; fi
    done
    if [ -d "$root/lost+found" ]; then rmdir --ignore-fail-on-non-empty "$root/lost+found"; fi
    install -m 644 "$root/srv/apt.conf" "$root/etc/apt/apt.conf.d/99mmdebstrap"
    if [ -e "$root/srv/sources.list" ]; then
        rm -rf "$root/etc/apt/sources.list.d"
        mkdir "$root/etc/apt/sources.list.d"
        install -m 644 "$root/srv/sources.list" "$root/etc/apt/sources.list"
    fi
}

# The apt module takes lists for fresh when their directory is, as in an image of today whose
# makers have emptied it.
lists() {
    apt-get -q -o APT::Update::Error-Mode=any update
}

# Kernels without 9p cannot be given a source tree: those of Debian's 'genericcloud' images.
kernels() {
    lacking=
    for modules in "$root"/lib/modules/*/; do
        release=$(basename "$modules")
        if [ ! -e "$root/boot/vmlinuz-$release" ]; then continue; fi
        if find "$modules" -name '9p.ko*' | grep -q .; then continue; fi
        if grep -qs '/9p\.ko$' "$modules/modules.builtin"; then continue; fi
        owner=$(dpkg-query -S "/boot/vmlinuz-$release")
        lacking="$lacking ${owner%%:*}"
        echo "note: The image's kernel $release has no 9p: Debian's generic kernel takes its place."
    done
    if [ -z "$lacking" ]; then return; fi
    # Package scripts must not start services: the processes would be the host's.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    # shellcheck disable=SC2086 # words on purpose
    apt-get -q purge -y $lacking
    rm "$root/usr/sbin/policy-rc.d"
}

"$step"
