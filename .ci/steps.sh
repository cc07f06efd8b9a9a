# What the scripts in this folder share. They read this file with the top folder of the tree as their working
# folder.
# shellcheck shell=bash

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}" CARGO_INCREMENTAL=0
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
tools="$CARGO_TARGET_DIR/tools"
fuzz_version=0.13.2
fuzz_targets=(address message frame hello invite link overlay files tls records fetch)
times=""

# step HEADING COMMAND...: runs the command, and prints how long it took.
step() {
    local heading="$1" start="$SECONDS"
    shift
    printf '\n=== %s\n' "$heading"
    "$@"
    printf -- '--- %s: %d s\n' "$heading" "$((SECONDS - start))"
    times+="$(printf '%5d s  %s' "$((SECONDS - start))" "$heading")"$'\n'
}

# beside HEADING COMMAND...: starts the command at the lowest priority, beside the steps that follow. Most tests wait
# for deadlines, and leave a processor idle. `finish_beside` waits for the command.
beside() {
    printf '\n=== %s: started\n' "$1"
    shift
    (
        renice -n 19 -p "$BASHPID" >/dev/null
        "$@"
    ) >"$CARGO_TARGET_DIR/beside.log" 2>&1 &
    beside=$!
    # If a step fails meanwhile, nothing goes on.
    trap 'pkill -P "$beside" || true' EXIT
}

# finish_beside: waits for the command that `beside` has started, and prints its output.
finish_beside() {
    local status=0
    wait "$beside" || status="$?"
    cat "$CARGO_TARGET_DIR/beside.log"
    return "$status"
}

fail() {
    printf 'error: %s\n' "$*" >&2
    return 1
}

# tool NAME VERSION: installs the cargo subcommand NAME, unless it is installed already.
tool() {
    command -v "$1" >/dev/null && return
    cargo install "$1" --locked --version "$2" --root "$tools" --target-dir "$tools/build"
    rm -rf "$tools/build"
}
PATH="$PATH:$tools/bin"

# fuzz_search ARGUMENT...: has libFuzzer search for inputs that break a fuzz target, each target with these
# arguments, and as many targets at a time as there are processors. cargo-fuzz switches AddressSanitizer on.
fuzz_search() {
    if ! cargo +nightly --version >/dev/null 2>&1 || ! command -v c++ >/dev/null; then
        printf 'not run: it needs a nightly toolchain and a C++ compiler\n'
        return
    fi
    tool cargo-fuzz "$fuzz_version"
    # Built before the first one runs, since builds at the same time would wait for each other.
    (cd fuzz && cargo +nightly fuzz build --target-dir "$CARGO_TARGET_DIR/fuzz-nightly")
    export -f fuzz_target
    printf '%s\n' "${fuzz_targets[@]}" |
        xargs -P "$(nproc)" -I TARGET bash -c 'fuzz_target "$@"' fuzz_target TARGET "$@"
}

# fuzz_target TARGET ARGUMENT...: has libFuzzer search in one fuzz target.
fuzz_target() {
    local target="$1" found="$CARGO_TARGET_DIR/fuzz-corpus/$1"
    shift
    # New inputs go to the first folder. The committed corpus does not change.
    mkdir -p "$found"
    (cd fuzz && cargo +nightly fuzz run --target-dir "$CARGO_TARGET_DIR/fuzz-nightly" \
        "$target" "$found" "corpus/$target" -- "$@" \
        >"$found.log" 2>&1) || { tail -50 "$found.log" >&2; return 1; }
    printf -- '- %s: %s\n' "$target" "$(grep -E '^Done' "$found.log")"
}

# summary: prints how long each step took.
summary() {
    printf '\n=== all done\n%s%5d s  in all\n' "$times" "$SECONDS"
}
