#!/bin/sh
# What a Vagrant box's guest has beyond the image: Vagrant's user, and a way to other networks.
# Runs in the root filesystem; the public key of the user lies beside it.
set -eu

id vagrant >/dev/null 2>&1 || useradd --create-home --shell /bin/bash vagrant
# No password, and not locked either: sshd without PAM refuses locked accounts even a key.
usermod --password '*' vagrant
install -d -m 700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 600 -o vagrant -g vagrant /srv/authorized_key /home/vagrant/.ssh/authorized_keys
printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' >/etc/sudoers.d/vagrant
chmod 440 /etc/sudoers.d/vagrant

# The image has the fixed addresses of QEMU's user network. Booted by its own boot loader, so by
# libvirt or anything else, the box asks for an address.
cat >/etc/systemd/network/05-vexrun-box.network <<NETWORK
[Match]
Name=en* eth*
KernelCommandLine=vexrun.net=dhcp

[Network]
DHCP=ipv4
NETWORK
