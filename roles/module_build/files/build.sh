#!/bin/bash
# Build a subject from a clean copy: the module, its tools, its crates.
#
# The one builder there is: role module_build runs it in the guest, and vexrun runs it in the
# image's root filesystem at native speed. Same script, same paths, same environment: the two
# modules have the same sha256 (M= is embedded in a module, so the directory matters).
#
# usage: build.sh --source DIR --dir DIR --subdir DIR --ko FILE --release REL --logs DIR
#                 --tools-dir DIR --jobs N [--prepare COMMAND] [--make-var K=V]...
#                 [--tool NAME COMMAND]... [--crate DIR BIN]...
#
# Prints one JSON line for each step: {"step": NAME, "ok": BOOL, "reason": TEXT, "seconds": N}.
# Exits 0 when every step was ok, 1 when one failed, 2 when it could not start.
# shellcheck disable=SC2317 # functions are called through step()
set -uo pipefail

source='' dir='' subdir=. ko='' release='' logs='' tools='' prepare='' jobs=0
make_vars=() tool_names=() tool_commands=() crate_dirs=() crate_bins=()
while [ $# -gt 0 ]; do
    case $1 in
        --source) source=$2; shift 2 ;;
        --dir) dir=$2; shift 2 ;;
        --subdir) subdir=$2; shift 2 ;;
        --ko) ko=$2; shift 2 ;;
        --release) release=$2; shift 2 ;;
        --logs) logs=$2; shift 2 ;;
        --tools-dir) tools=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --prepare) prepare=$2; shift 2 ;;
        --make-var) make_vars+=("$2"); shift 2 ;;
        --tool) tool_names+=("$2"); tool_commands+=("$3"); shift 3 ;;
        --crate) crate_dirs+=("$2"); crate_bins+=("$3"); shift 3 ;;
        *) echo "build.sh: unknown argument '$1'" >&2; exit 2 ;;
    esac
done
[ "$jobs" -gt 0 ] || jobs=$(nproc)
[ -n "$release" ] || release=$(uname -r)

refuse() { echo "build.sh: $*" >&2; exit 2; }
[ -e "/lib/modules/$release/build/Makefile" ] ||
    refuse "'/lib/modules/$release/build' is missing; role 'kernel_headers' installs it."
[ -n "$(ls -A "$source" 2>/dev/null)" ] ||
    refuse "the source '$source' is not there or is empty; is it mounted? Try: mount $source"

json_text() { printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'; }
failed=0
report() { # STEP OK REASON STARTED
    [ "$2" = true ] || failed=1
    printf '{"step": "%s", "ok": %s, "reason": "%s", "seconds": %d}\n' \
        "$(json_text "$1")" "$2" "$(json_text "$3")" $((SECONDS - $4))
}

rm -rf "$dir"
mkdir -p "$dir" "$tools" "$logs" || refuse "cannot write below '$dir'."
# Build products of another build would be linked in, or hide a rule that no longer works.
# A directory 'target' is cargo's only beside a Cargo.toml.
excluded=$(mktemp)
programs=$(mktemp -d)
trap 'rm -rf "$excluded" "$dir.started" "$programs"' EXIT
(cd "$source" && find . -name Cargo.toml -printf '%h/target\n') >"$excluded"
tar -C "$source" --anchored --exclude-from="$excluded" --no-anchored \
    --exclude=.git --exclude=.hg --exclude=.svn --exclude=.tmp_versions \
    --exclude='*.o' --exclude='*.ko' --exclude='*.mod' --exclude='*.mod.c' --exclude='.*.cmd' \
    --exclude=Module.symvers --exclude=modules.order -cf - . |
    tar -C "$dir" --no-same-owner -xf - || refuse "cannot copy '$source' to '$dir'."
: >"$dir.started"
: >"$logs/module.log"

# A Makefile that asks `uname -r` means the kernel it builds for; natively that is not the one that
# runs.
uname=$(command -v uname)
printf '#!/bin/sh\n[ "$*" != -r ] || { echo "%s"; exit; }\nexec %s "$@"\n' \
    "$release" "$uname" >"$programs/uname"
chmod +x "$programs/uname"

clean() { # run a command in the environment that both builders share
    # PWD, as a shell would export it: many a Makefile says -I$(PWD)/include, and make sets none.
    env -i PATH="$programs:$PATH" PWD="$PWD" HOME="$dir" LC_ALL=C.UTF-8 SOURCE_DATE_EPOCH=0 \
        KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=vexrun KBUILD_BUILD_HOST=vexrun \
        CARGO_HOME="$dir/.cargo-home" CARGO_TARGET_DIR="$dir/.cargo-target" CARGO_NET_OFFLINE=true \
        "$@"
}

build_module() {
    local where=$dir built
    [ "$subdir" = . ] || where=$dir/$subdir
    if [ -n "$prepare" ]; then
        cd "$dir" || return 1
        clean bash -c "$prepare" >"$logs/module.log" 2>&1 ||
            { echo "what prepares the build (module.prepare) ended with exit status $?"; return 1; }
    fi
    cd "$where" || { echo "there is no directory '$subdir' in the source"; return 1; }
    # srcversion, always: it is how the loaded module is proven to be this file.
    clean make -C "/lib/modules/$release/build" M="$where" CONFIG_MODULE_SRCVERSION_ALL=y \
        "${make_vars[@]}" -j"$jobs" modules >>"$logs/module.log" 2>&1 ||
        { echo "make failed for kernel $release"; return 1; }
    if [ ! -f "$where/$ko" ]; then
        built=$(find "$dir" -name '*.ko' -printf '%P ')
        echo "make succeeded but did not make '$ko'; it made: ${built:-no module at all}"
        return 1
    fi
    [ ! "$dir.started" -nt "$where/$ko" ] ||
        { echo "'$ko' is older than this build: make did not make it"; return 1; }
}

build_tool() { # NAME COMMAND
    local out=$tools/$1 command=$2
    rm -f "$out"
    cd "$dir" || return 1
    command=${command//'{out}'/$out}
    command=${command//'{tools}'/$tools}
    clean bash -c "$command" >"$logs/$1.log" 2>&1 || { echo "its build command failed"; return 1; }
    [ -x "$out" ] || { echo "its build command succeeded but made no program '$out'"; return 1; }
}

build_crate() { # DIR BIN
    local log=$logs/$2.log registry=/usr/share/cargo/registry
    # Debian's librust-*-dev packages are cargo's only registry offline; a tree that vendors its
    # crates says so in a .cargo/config.toml of its own, which comes before this one.
    if [ -d "$registry" ]; then
        mkdir -p "$dir/.cargo-home"
        printf '[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "%s"\n' \
            "$registry" >"$dir/.cargo-home/config.toml"
    fi
    cd "$dir/$1" || { echo "there is no directory '$1' in the source"; return 1; }
    clean cargo build --release --offline --bin "$2" >"$log" 2>&1 ||
        { echo "cargo build failed"; return 1; }
    install -m 755 "$dir/.cargo-target/release/$2" "$tools/$2" 2>>"$log" ||
        { echo "cargo build made no program '$2'"; return 1; }
}

step() { # NAME FUNCTION [ARGUMENT]...
    local name=$1 started=$SECONDS reason
    shift
    if reason=$("$@"); then report "$name" true '' "$started"; else report "$name" false "$reason" "$started"; fi
}

[ -z "$ko" ] || step module build_module
for i in "${!tool_names[@]}"; do step "${tool_names[i]}" build_tool "${tool_names[i]}" "${tool_commands[i]}"; done
for i in "${!crate_dirs[@]}"; do step "${crate_bins[i]}" build_crate "${crate_dirs[i]}" "${crate_bins[i]}"; done
exit "$failed"
