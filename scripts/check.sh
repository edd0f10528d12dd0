# Sourced by scripts/run --check: one whole life of a cluster and its agents, each promise with the time it took.
# shellcheck shell=bash

write_ms_max=3000

saw() { printf '  ok  %s\n' "$*"; }

fail() {
  printf '  NOT %s\n' "$*"
  printf 'the logs are in %s\n' "$directory" >&2
  exit 1
}

# Whether an id is off the roll of every node. A node that does not answer shows nothing either way.
is_gone_everywhere() {
  local node
  for node in "${endpoints[@]}"; do
    "$bin" discover --tag demo --timeout 2s --endpoint "$node" 2>/dev/null |
      awk -v id="$1" '$1 == id { seen = 1 } END { exit NR == 0 || seen }' || return 1
  done
}

check_discovery() {
  local node
  for node in "${endpoints[@]}"; do
    within 2000 all_present "$node" || fail "all four agents at $node"
    saw "all four agents are found at $node"
  done
}

check_struck_off() {
  local id=${agent_ids[0]} pid=${agent_pids[0]} started limit=$((agent_ttl_ms + 1000)) took
  started=$(now_ms)
  crash "$pid"
  agent_ids=("${agent_ids[@]:1}")
  agent_pids=("${agent_pids[@]:1}")
  within "$limit" is_gone_everywhere "$id" || fail "$id, killed, is struck off within $limit ms"
  took=$(($(now_ms) - started))
  all_present "${endpoints[@]}" || fail "only $id is struck off"
  saw "$id, killed, was struck off at every node after $took ms (TTL $agent_ttl_ms ms)"
}

check_leader_killed() {
  local leader number started took until
  leader=$(leader_address)
  [[ "$leader" != none ]] || fail "a leader is known"
  number=$(((${leader##*:} - base) / 10 + 1))
  survivors=()
  for node in "${endpoints[@]}"; do [[ "$node" == "http://$leader" ]] || survivors+=("$node"); done

  started=$(now_ms)
  crash "${node_pids[number - 1]}"
  "$bin" register --endpoint "${survivors[0]}" --id written-after --name check --url http://127.0.0.1:1 \
    --ttl-ms 60000 --timeout "${write_ms_max}ms" >/dev/null ||
    fail "a write at ${survivors[0]} within $write_ms_max ms of the leader's death"
  took=$(($(now_ms) - started))
  ((took <= write_ms_max)) || fail "a write within $write_ms_max ms of the leader's death, not $took ms"
  saw "the leader ($leader) was killed; the next write at ${survivors[0]} took $took ms"

  until=$((started + agent_ttl_ms + 2000))
  while (($(now_ms) < until)); do
    all_present "${survivors[@]}" || fail "every agent stays on the roll of the survivors"
    pause 0.2
  done
  saw "nobody was lost in the $((agent_ttl_ms + 2000)) ms after"

  started=$(now_ms)
  start_node "$number"
  wait_for_cluster
  within 5000 all_present "${endpoints[@]}" || fail "the restarted node shows every agent"
  saw "the killed node came back and shows every agent after $(($(now_ms) - started)) ms"
}

check_goodbye() {
  local id=${agent_ids[0]} pid=${agent_pids[0]} started
  started=$(now_ms)
  stop_all "$pid"
  agent_ids=("${agent_ids[@]:1}")
  agent_pids=("${agent_pids[@]:1}")
  within 1000 is_gone_everywhere "$id" || fail "$id, asked to end, leaves the roll at once"
  saw "$id was asked to end, deregistered, and was off every roll after $(($(now_ms) - started)) ms"
}

check() {
  mkdir -p data
  start_cluster "$(mktemp -d data/check.XXXXXX)"
  start_agents 3000
  check_discovery
  check_struck_off
  check_leader_killed
  check_goodbye
  stop_everything
  trap - EXIT
  rm -rf "$directory"
  say "All of it holds."
}
