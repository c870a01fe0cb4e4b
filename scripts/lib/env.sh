# shellcheck shell=bash
# What the scripts share: where the repository is, how to say what is going on, Debian packages, the virtual
# environment. Sourced by bash, never run. Promises: everything here may be called again at no cost, and nothing
# outside the repository is changed but for packages installed by apt when run as root.
#
#   tulle_apt PKG...       install what is missing
#   tulle_venv EXTRA...    make .venv with the named extras of pyproject.toml; sets TULLE_PY to its interpreter
#                          (every package as scripts/lib/pack/requirements-EXTRA.txt has it, which scripts/lock renews)

TULLE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
TULLE_PYTHON=${TULLE_PYTHON:-/usr/bin/python3}   # Debian's own: its libpython is shared, as freezing needs it
TULLE_PY=$TULLE_ROOT/.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

tulle_say() { printf '%s\n' "$*" >&2; }

tulle_die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# tulle_step TEXT COMMAND...: say TEXT, run the command with its output in a log, say how long it took.
# When it fails, the end of the log is shown.
tulle_step() {
    local text=$1 log start=$EPOCHREALTIME status=0
    shift
    log=$(mktemp) || tulle_die "cannot make a temporary file"
    printf '  %-58s ' "$text" >&2
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if ((status)); then
        printf 'failed\n' >&2
        tail -n 40 "$log" >&2
    else
        printf '%6.1f s\n' "$(tulle_since "$start")" >&2
    fi
    rm -f "$log"
    return "$status"
}

# tulle_since EPOCHREALTIME: the seconds since then, with a decimal point in any locale.
tulle_since() {
    local now=${EPOCHREALTIME//[.,]/} then=${1//[.,]/}
    local LC_ALL=C
    printf '%d.%06d' $(((now - then) / 1000000)) $(((now - then) % 1000000))
}

tulle_missing() {
    local package
    for package; do
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || printf '%s\n' "$package"
    done
}

tulle_apt() {
    local -a missing
    command -v dpkg-query >/dev/null || tulle_die "this needs Debian or Ubuntu; install by hand: $*"
    mapfile -t missing < <(tulle_missing "$@")
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || tulle_die "missing packages; run as root: apt-get install ${missing[*]}"
    tulle_step "installing ${missing[*]}" tulle_apt_install "${missing[@]}" ||
        tulle_die "apt-get could not install ${missing[*]}"
}

# The package lists of a fresh machine are empty, those of an old one name versions that are gone, or that do not fit
# what is installed: fetched only when they turn out to be of no use. Two scripts at once: one waits.
tulle_apt_install() {
    local -a install=(apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends)
    export DEBIAN_FRONTEND=noninteractive
    (
        exec 9>/run/lock/tulle-apt && flock 9
        "${install[@]}" "$@" || { apt-get update && "${install[@]}" "$@"; }
    )
}

# Changes whenever .venv has to be made or completed again.
tulle_venv_stamp() {
    { "$TULLE_PYTHON" -VV && cat "$TULLE_ROOT/pyproject.toml" "$TULLE_ROOT"/scripts/lib/pack/requirements-*.txt; } |
        sha256sum | cut -c1-16
}

tulle_venv() {
    local stamp extra extras='' venv=$TULLE_ROOT/.venv
    "$TULLE_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        tulle_die "$TULLE_PYTHON is not Python 3.11 or later; install one (Debian 12: python3) or set TULLE_PYTHON"
    stamp=$(tulle_venv_stamp)
    for extra; do
        [[ $(cat "$venv/.tulle-$extra" 2>/dev/null) == "$stamp" ]] || extras+=${extras:+,}$extra
    done
    [[ -n $extras ]] || return 0
    [[ $TULLE_PYTHON != /usr/bin/* ]] || tulle_apt python3-venv
    (
        exec 9<"$TULLE_ROOT/scripts" && flock 9   # two scripts at once: one waits
        tulle_venv_is_ours "$venv" ||
            tulle_step "making the virtual environment .venv" "$TULLE_PYTHON" -m venv --clear "$venv" || exit 1
        tulle_step "installing Python packages ($extras)" tulle_pip "${extras//,/ }"
    ) || tulle_die "the virtual environment could not be made; is the package index reachable?"
    for extra in ${extras//,/ }; do
        printf '%s\n' "$stamp" >"$venv/.tulle-$extra"
    done
}

# tulle_pip 'EXTRA...': nothing whose digest is not locked, what builds our own package included.
tulle_pip() {
    local extra
    local -a locked=()
    for extra in $1; do
        locked+=(--requirement "$TULLE_ROOT/scripts/lib/pack/requirements-$extra.txt")
    done
    "$TULLE_PY" -m pip install --quiet --require-hashes "${locked[@]}" &&
        "$TULLE_PY" -m pip install --quiet --no-deps --no-build-isolation --editable "$TULLE_ROOT"
}

# An environment that another interpreter made (an upgraded system, another TULLE_PYTHON) is made anew.
tulle_venv_is_ours() {
    [[ -x $1/bin/python && $("$1/bin/python" -VV 2>/dev/null) == "$("$TULLE_PYTHON" -VV)" ]] &&
        "$1/bin/python" -m pip --version >/dev/null 2>&1
}
