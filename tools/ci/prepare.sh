#!/bin/bash
# Make a disposable CI machine (Debian or Ubuntu) fit for vexrun: packages, virtual environment,
# /dev/kvm and user namespaces for this user. Ends with 'vexrun doctor', whose word is final.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

make -C "$checkout" setup

kvm=${KVM_DEVICE:-/dev/kvm}
if [ -e "$kvm" ] && ! [ -w "$kvm" ]; then
    echo "Opening $kvm for user $(id -un)"
    as_root chmod 666 "$kvm"
fi

if [ "$(id -u)" != 0 ]; then
    # Ubuntu 24.04 takes every capability away inside an ordinary user's namespace.
    name=kernel.apparmor_restrict_unprivileged_userns
    if [ "$(sysctl -n "$name" 2>/dev/null || true)" = 1 ]; then
        as_root sysctl -q "$name=0"
    fi
    if ! grep -qs "^$(id -un):" /etc/subuid; then
        as_root usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$(id -un)"
    fi
fi

if [ -n "${GITHUB_PATH:-}" ]; then
    echo "$checkout/.venv/bin" >>"$GITHUB_PATH"
fi
PATH=$checkout/.venv/bin:$PATH
vexrun doctor
