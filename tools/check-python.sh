#!/bin/sh
# vexrun needs Python 3.11 to 3.13: older ones lack tomllib, ansible-core 2.19 knows no newer one.
set -eu

version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || {
    echo "There is no '$1'. Install python3, or run: make PYTHON=/path/to/python3.12" >&2
    exit 69
}
case $version in
    3.11 | 3.12 | 3.13) ;;
    *)
        echo "'$1' is Python $version; vexrun runs on 3.11, 3.12 and 3.13." >&2
        echo "Run: make PYTHON=/path/to/python3.12" >&2
        exit 69
        ;;
esac
