#!/bin/sh
# Install the packages listed in a file, those that are missing only; sudo when not root.
set -eu

missing=
while read -r package _; do
    case $package in '' | '#'*) continue ;; esac
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=absent
    [ "$state" = installed ] || missing="$missing $package"
done <"$1"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "These packages are missing:$missing" >&2
    echo "Become root and run: apt-get install --no-install-recommends$missing" >&2
    exit 69
fi
echo "Installing:$missing"
# shellcheck disable=SC2086 # words on purpose
$as_root env DEBIAN_FRONTEND=noninteractive sh -c '
    apt-get update -q && apt-get install -q -y --no-install-recommends "$@"' sh $missing
