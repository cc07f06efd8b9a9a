//! The texts below the help of the program and of its subcommands: examples, environment, exit status.

/// Shown below `peerkit --help`.
pub(super) const EXAMPLES: &str = "\
Try it in one minute:
  peerkit demo                    starts eight nodes on this machine, and checks what they do

Send a file:
  peerkit share holiday.zip       on the first machine: prints the command for the second
  peerkit get TICKET              on the second machine: fetches the file and verifies it

Run a network:
  peerkit run                     on the first machine: prints the command for the second
  peerkit run 192.168.1.5:7117    on the second machine: joins the network of the first
Then, at the prompt of either:
  msg hello                       sends a text to every connected node
  add ~/Pictures                  shares a folder, which other nodes `search` and `get`
  help                            lists all commands

`peerkit help COMMAND` explains a command, with examples.
Exit status: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C stopped a command or a fetch.";

/// Shown below `peerkit run --help`.
pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  peerkit run                               listens on port 7117, and reads commands
  peerkit run 192.168.1.5:7117              also joins the network of the node at that address
  peerkit run --listen 127.0.0.1:0 --json   takes a free port, and prints JSON lines for a program
  peerkit run --announce 203.0.113.7:7000   behind a router that forwards its port 7000 to this node
  peerkit run --bootstrap n1.example.org    joins through that node, and retries until it answers
  peerkit run --headless --share ~/Public   is a server: runs until SIGTERM or Ctrl-C
  peerkit run --api 0.0.0.0:8443 --api-cert cert.pem --api-key key.pem
                                            can be steered from other machines, over HTTPS
  peerkit run --up 2M --down 10M            sends files at 2 MB/s at most, fetches them at 10 MB/s
  echo 'discover' | peerkit run HOST:7117   carries out one command, then stops
  PEERKIT_SECRET=... peerkit run            links only to nodes with the same secret

Environment:
  PEERKIT_SECRET      the secret of the network. It has no option, as other users of this machine
                      can read a command line
  PEERKIT_BOOTSTRAP   more nodes as with --bootstrap: addresses separated by commas or spaces
  PEERKIT_LOG         the level of the log on standard error: `info`, `debug`, or a level for each
                      kind, as in `warn,link=debug`. The kinds are node, link, message, query,
                      membership, broadcast and transfer
  PEERKIT_LOG_FORMAT  `text`, or `json` for one JSON object per line
  NO_COLOR            if it is set, no colours are used, even on a terminal

Type `help` at the prompt for a list of the commands.
A service or a container, whose standard input is empty, needs --headless to keep running.
Exit status: 0 done, 1 the start or a piped command failed, 2 wrong usage, 130 Ctrl-C stopped a
command.";

/// Shown below `peerkit sim --help`.
pub(crate) const SIM_EXAMPLES: &str = r#"A scenario is a TOML file. This is a complete one:

  name = "half of them"
  nodes = 200
  latency = "internet"              # or "20ms", or "10ms to 200ms"

  [[step]]                          # all nodes start, and join through the first one
  join = { within = "30s" }
  wait = "60s"
  expect = { not_joined = 0, components = 1 }

  [[step]]
  crash = { percent = 50 }
  wait = "60s"
  expect = { one_component_within = "30s" }

  [[step]]
  broadcast = { authors = 10, every = "100ms", for = "10s" }
  expect = { delivered_percent = 100, redundancy = 1.5 }

Other keys of the file are `about`, `jitter`, `bandwidth` (bytes a second), `nat_percent`,
`liars_percent`, `forgers_percent` and `limits = { real_time = "5m", memory_mib = 8192 }`. With
`nat_kinds = true`, the nodes that can't be dialled are behind NATs of several kinds, and reach
others by hole punching and relays.
All actions of a step begin at the same time, and the step ends with its last action. These are the
actions, with their keys and the defaults in brackets:
  join       within, through (1: number of nodes that start first, which the others join through)
  wait       a time
  broadcast  every, for, authors (0: a random node each time), size (100), patience ("10s")
  fetch      every, for, size (100), patience ("10s"): nodes fetch files from each other
  crash      percent, silently (false)
  replace    percent_per_minute, for, through (1: members that a new node joins through)
  partition  for, parts (2)
  discover   depth (-1: all)
  flood      nodes, queries, every, for, links (5): strangers send queries over each of their links
  eclipse    identities, groups, every, for: an attacker asks honest nodes for places
A step can expect bounds of these results: not_joined, components, links_over_view,
one_component_within, delivered_percent, delivered_twice, delivered_within, altered, redundancy,
last_node_over_best, worst_over_best, honest_components, honest_neighbours, discovery_errors,
queries_over_links, slow_links, two_honest_neighbours_percent, beacons_a_minute, fetched_percent,
fetched_within, fetched_directly, fetched_relayed, relayed_needlessly.

Examples:
  peerkit sim simulations/join.toml              runs it once, with seed 1
  peerkit sim simulations/*.toml --seeds 20      runs each with the seeds 1 to 20
  peerkit sim my.toml --seed 7 --nodes 100       repeats a run with fewer nodes
  peerkit sim my.toml --json | jq .measures      prints a JSON line for each run

The same file and seed give the same run on every machine. The trace is a hash of the run.
Exit status: 0 all expectations held, 1 an expectation did not hold, 2 a file is not a scenario."#;

/// Shown below `peerkit demo --help`.
pub(super) const DEMO_EXAMPLES: &str = "\
The nodes join one network, send messages and broadcasts, and share, find and fetch files. They use
real sockets on 127.0.0.1. The line of a step begins with ✓ if its result is right, else with ✗.

Examples:
  peerkit demo                            eight nodes, and files that the demo makes
  peerkit demo --nodes 20 --dir ~/Music   20 nodes, which also share and fetch a folder of yours
  peerkit demo --picture network.svg      also draws the network

Exit status: 0 every step worked, 1 a step failed, 2 wrong usage, 130 stopped by Ctrl-C.";

/// Shown below `peerkit id --help`.
pub(super) const ID_EXAMPLES: &str = "\
The identity of a node is its public key, as 64 hex digits. Other users need it for `share --to ID`.
They can also write the address of this node as ID@host:port: then no other node can answer there.";
