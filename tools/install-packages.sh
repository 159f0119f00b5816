#!/bin/sh
# Install the packages listed in a file, those that are missing only; sudo when not root.
# A line 'NAME optional' is for those that not every distribution has: without one it says so.
set -eu

missing=
optional=
while read -r package kind _; do
    case $package in '' | '#'*) continue ;; esac
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=absent
    [ "$state" != installed ] || continue
    if [ "$kind" = optional ]; then optional="$optional $package"; else missing="$missing $package"; fi
done <"$1"
[ -n "$missing$optional" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
elif [ -n "$missing" ]; then
    echo "These packages are missing:$missing" >&2
    echo "Become root and run: apt-get install --no-install-recommends$missing" >&2
    exit 69
else
    echo "Not installed, and not needed by everything:$optional" >&2
    exit 0
fi
$as_root apt-get update -q
for package in $optional; do
    if apt-cache show "$package" >/dev/null 2>&1; then
        missing="$missing $package"
    else
        echo "This distribution has no '$package': what needs it is left out." >&2
    fi
done
[ -n "$missing" ] || exit 0
echo "Installing:$missing"
# shellcheck disable=SC2086 # words on purpose
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
