#!/bin/bash
# image.sh SUITE ARCHIVE: the suite's image from a CI cache, or built now and written there.
#
# The archive is taken only if it holds the image that a run would use: an old or a broken one is
# replaced. Says 'saved=true' to GitHub when there is something new to keep.
set -euo pipefail
suite=$1
archive=$2

wanted=$(vexrun image name --suite "$suite")
saved=false
if [ -f "$archive" ] && loaded=$(vexrun image load "$archive") && [ "$loaded" = "$wanted" ]; then
    echo "The image '$wanted' came from the cache."
else
    rm -f "$archive"
    mkdir -p "$(dirname "$archive")"
    vexrun image save "$archive" --suite "$suite"
    saved=true
fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    echo "saved=$saved" >>"$GITHUB_OUTPUT"
fi
