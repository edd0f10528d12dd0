# Sourced by scripts/run: builds the program, and starts and ends three nodes and four agents.
# shellcheck shell=bash

bin="$CARGO_TARGET_DIR/release/rollcall"
node_pids=()
agent_pids=()
agent_ids=()
agent_ttl_ms=0
compiler_pid=""

build() {
  own_the_target
  announce_build
  cargo build --release --locked -p rollcall-cli &
  compiler_pid=$!
  if ! [[ -t 2 ]]; then
    # Without a terminal cargo shows no progress.
    local started=$SECONDS told=0
    while kill -0 "$compiler_pid" 2>/dev/null; do
      pause 1
      if ((SECONDS - started >= told + 60)); then
        told=$((told + 60))
        say "  still compiling, $((told / 60)) min"
      fi
    done
  fi
  wait "$compiler_pid" || die "the build failed"
  compiler_pid=""
}

now_ms() {
  local now="${EPOCHREALTIME/[.,]/}"
  say "$((now / 1000))"
}

# A sleep that a signal interrupts at once.
pause() {
  sleep "$1" &
  wait $! || true
}

is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first block of a hundred ports whose ports nobody uses. Each block has its own data, because a node keeps its
# address.
choose_ports() {
  local offset
  for ((base = 7900; base <= 9900; base += 100)); do
    for offset in 0 1 10 11 20 21 50 51 52 53; do
      is_free $((base + offset)) || continue 2
    done
    endpoints=("http://127.0.0.1:$base" "http://127.0.0.1:$((base + 10))" "http://127.0.0.1:$((base + 20))")
    ROLLCALL_ENDPOINTS=$(
      IFS=,
      say "${endpoints[*]}"
    )
    export ROLLCALL_ENDPOINTS
    return
  done
  die "no free ports from 7900 to 9999"
}

# In a process group of its own, so that Ctrl-C ends things in our order.
in_background() {
  local log=$1
  shift
  set -m
  "$@" </dev/null >>"$log" 2>&1 &
  set +m
  started_pid=$!
  # So that bash does not report it when somebody kills it.
  disown "$started_pid"
}

# Node N of three; on a directory that already is a node, --bootstrap and --join change nothing.
start_node() {
  local number=$1 port=$((base + 10 * ($1 - 1))) founding=(--bootstrap)
  ((number == 1)) || founding=(--join "127.0.0.1:$((base + 1))")
  in_background "$directory/node-$number.log" "$bin" serve --data-dir "$directory/node-$number" \
    --listen "127.0.0.1:$port" --peer-listen "127.0.0.1:$((port + 1))" "${founding[@]}"
  node_pids[number - 1]=$started_pid
}

wait_for_cluster() {
  "$bin" cluster wait --ready --voters 3 --timeout 60s >/dev/null || die "see the logs in $directory"
}

start_cluster() {
  directory=$1
  mkdir -p "$directory"
  local number
  for number in 1 2 3; do start_node "$number"; done
  wait_for_cluster
  say "Three nodes are up: ${endpoints[*]}"
  say "Their data and logs are in ./$directory."
}

# An agent is a program that serves something; the wrapper registers it, beats for it, and ends with it.
start_agent() {
  local id=$1 name=$2 capability=$3 port=$4 program
  if command -v python3 >/dev/null; then
    program=(python3 -m http.server "$port" --bind 127.0.0.1 --directory "$directory/www")
  else
    program=(sleep 86400)
  fi
  in_background "$directory/$id.log" "$bin" register --keep-alive --id "$id" --name "$name" --type agent \
    --url "http://127.0.0.1:$port" --capability "$capability" --tag demo --ttl-ms "$agent_ttl_ms" -- "${program[@]}"
  agent_pids+=("$started_pid")
  agent_ids+=("$id")
}

start_agents() {
  agent_ttl_ms=$1
  mkdir -p "$directory/www"
  local number
  for number in 1 2 3; do
    start_agent "translator-$number" translator translate $((base + 49 + number))
  done
  start_agent summarizer-1 summarizer summarize $((base + 53))
  within 10000 all_present "${endpoints[@]}" || die "the agents are not on the roll; see the logs in $directory"
  say "Four agents are up, each with a TTL of $agent_ttl_ms ms: ${agent_ids[*]}"
}

# The ids on the roll, one on each line; at the given node, or at any.
present() {
  local node=()
  (($# == 0)) || node=(--endpoint "$1")
  "$bin" discover --tag demo --timeout 2s "${node[@]}" 2>/dev/null | awk 'NR > 1 && $2 != "of" { print $1 }'
}

# Whether every agent that should be is on the roll of each given node, and nobody else.
all_present() {
  local node expected
  expected=$(printf '%s\n' "${agent_ids[@]}" | sort)
  for node in "$@"; do
    [[ "$(present "$node" | sort)" == "$expected" ]] || return 1
  done
}

# Tries a command until it succeeds; fails when it has not by so many milliseconds from now.
within() {
  local deadline=$(($(now_ms) + $1))
  shift
  until "$@"; do
    (($(now_ms) < deadline)) || return 1
    pause 0.1
  done
}

leader_address() {
  "$bin" cluster status --timeout 2s 2>/dev/null | awk '$2 == "leader" { print $3; found = 1 } END { if (!found) print "none" }'
}

# Ends a process as a crash would.
crash() {
  kill -KILL "$1" 2>/dev/null || true
  while kill -0 "$1" 2>/dev/null; do sleep 0.02; done
}

# Ends the given processes: asks, waits, and insists after ten seconds.
stop_all() {
  local pid deadline=$((SECONDS + 10))
  for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "$@"; do
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
    crash "$pid"
  done
}

# Agents first, so that they can still say goodbye.
stop_everything() {
  trap '' INT TERM
  [[ -z "$compiler_pid" ]] || kill "$compiler_pid" 2>/dev/null || true
  if ((${#agent_pids[@]} + ${#node_pids[@]})); then
    say ""
    say "Ending the agents and the nodes."
  fi
  stop_all "${agent_pids[@]}"
  stop_all "${node_pids[@]}"
}
