# shellcheck shell=bash
# What scripts/install puts on a machine, and takes away again: links, files, folders, and the manifest that knows them.
# Sourced by it, never run. Paths are absolute and below ROOT, which is '' for this machine. Promises: what a runtime can
# see changes by one rename; what is not on record is not removed, and what stood in a link's place comes back.

HOME_DIR=/opt/tulle
MANIFEST=$HOME_DIR/manifest
ROOT=''

# point LINK TARGET: a symbolic link, put in place of whatever is there by one rename.
point() {
    temporary_for "$1"
    ln -s "$2" "$TEMPORARY"
    mv -T "$TEMPORARY" "$1"
}

# temporary_for PATH: sets TEMPORARY to a name beside it that no runtime reads, removed should we end before it is used.
temporary_for() {
    TEMPORARY=$(dirname "$1")/.tulle.$$.tmp
    rm -f "$TEMPORARY"
}
TEMPORARY=''
trap 'rm -f ${TEMPORARY:+"$TEMPORARY"}' EXIT

# put_link PATH EXECUTABLE: a relative link to an executable of the current release. What somebody else put there is kept.
put_link() {
    local path=$1 folder saved
    make_dir "$(dirname "$path")"
    folder=$(dirname "$ROOT$path")
    if ! recorded link "$path"; then
        if [[ -e $ROOT$path || -L $ROOT$path ]]; then
            saved=$HOME_DIR/replaced$path
            mkdir -p "$(dirname "$ROOT$saved")"
            cp -a "$ROOT$path" "$ROOT$saved"
            record saved "$path"
            tulle_say "kept the present $path in $saved"
        fi
        record link "$path"
    fi
    point "$ROOT$path" "$(realpath -m --relative-to="$folder" "$ROOT$HOME_DIR")/current/$2"
}

# put_file SOURCE PATH [MODE]: a copy, put in place by one rename.
put_file() {
    local path=$2
    make_dir "$(dirname "$path")"
    temporary_for "$ROOT$path"
    cp "$1" "$TEMPORARY"
    chmod "${3:-644}" "$TEMPORARY"
    forget file "$path"
    record file "$path" "$(digest "$TEMPORARY")"
    mv -T "$TEMPORARY" "$ROOT$path"
}

# Directories are recorded as they are made, outermost first, so that they can go again when they are empty.
make_dir() {
    local -a missing=()
    local each=$1
    while [[ ! -d $ROOT$each ]]; do
        missing=("$each" "${missing[@]}")
        each=$(dirname "$each")
    done
    mkdir -p "$ROOT$1"
    for each in "${missing[@]}"; do
        UNRECORDED+=("$each")
    done
    [[ -d $ROOT$HOME_DIR ]] || return 0
    for each in "${UNRECORDED[@]}"; do
        record dir "$each"
    done
    UNRECORDED=()
}
UNRECORDED=()

remove_file() {
    [[ -e $ROOT$1 ]] || return 0
    if [[ $(digest "$ROOT$1") == "$2" ]]; then
        rm "$ROOT$1"
    else
        mv -T "$ROOT$1" "$ROOT$1.saved"
        tulle_say "kept the edited $1 as $1.saved, which no runtime reads"
    fi
}

# What stood there before comes back by one rename, so a runtime finds the one or the other.
remove_link() {
    [[ $(readlink "$ROOT$1") == */tulle/current/* ]] || return 0
    if recorded saved "$1"; then
        temporary_for "$ROOT$1"
        cp -a "$ROOT$HOME_DIR/replaced$1" "$TEMPORARY"
        mv -T "$TEMPORARY" "$ROOT$1"
    else
        rm "$ROOT$1"
    fi
}

# --- the manifest: lines of kind, path below the root, and for a file what was written there ------------------------

record() {
    recorded "$@" || (IFS=$'\t'; printf '%s\n' "$*" >>"$ROOT$MANIFEST")
}

recorded() {
    (IFS=$'\t'; grep -qsxF -- "$*" "$ROOT$MANIFEST")
}

forget() {
    local kept
    [[ -e $ROOT$MANIFEST ]] || return 0
    kept=$(awk -F '\t' -v kind="$1" -v path="$2" '!($1 == kind && $2 == path)' "$ROOT$MANIFEST")
    printf '%s\n' "$kept" >"$ROOT$MANIFEST.tmp"
    mv -T "$ROOT$MANIFEST.tmp" "$ROOT$MANIFEST"
}

digest() { sha256sum <"$1" | cut -d ' ' -f 1; }

# entries KIND: the lines of this kind, the latest first.
entries() { grep -s "^$1"$'\t' "$ROOT$MANIFEST" | tac || true; }
