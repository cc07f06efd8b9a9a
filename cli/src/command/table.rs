//! The table of the commands. `help`, completion, the parser and its suggestions use it.

use super::NodeCommand;
use super::address::{check_address, join_ports};
use super::arguments::ArgumentReader;
use super::options::{CommandOption, ValueCount};

/// The description of a command, and the function that reads its arguments.
#[derive(Debug, Clone)]
pub(crate) struct CommandSpec {
    /// The command with its arguments. The first word is its name, as in results.
    pub(crate) usage: &'static str,
    /// Its effect, on one line.
    pub(crate) summary: &'static str,
    /// Further explanation; may be empty.
    pub(crate) more: &'static str,
    /// Other names for it.
    pub(crate) aliases: &'static [&'static str],
    /// Its options. The line of a command without options is read unchanged, dashes and all.
    pub(crate) options: &'static [CommandOption],
    /// Reads the rest of its line.
    pub(super) read: fn(&mut ArgumentReader<'_>) -> Result<NodeCommand, String>,
}

impl CommandSpec {
    const fn new(
        usage: &'static str,
        summary: &'static str,
        read: fn(&mut ArgumentReader<'_>) -> Result<NodeCommand, String>,
    ) -> Self {
        Self { usage, summary, more: "", aliases: &[], options: &[], read }
    }

    const fn options(self, options: &'static [CommandOption]) -> Self {
        Self { options, ..self }
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn more(self, more: &'static str) -> Self {
        Self { more, ..self }
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    /// Returns its name and its other names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name()).chain(self.aliases.iter().copied())
    }
}

/// Every command, in the order in which `help` lists them.
pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::new(
        "connect ADDR [--reconnect]",
        "connect to a node, without joining its network",
        |args| {
            let mut words = join_ports(args.words());
            let (Some(address), true) = (words.pop(), words.is_empty()) else {
                return Err(args.usage_error("takes one address"));
            };
            check_address(&address)?;
            Ok(NodeCommand::Connect { address, reconnect: args.options.has("--reconnect") })
        },
    )
    .options(&[CommandOption::new("--reconnect", ValueCount::None)])
    .more(
        "ADDR is host:port or host port, or ID@host:port to check the identity of the node\n\
         there. The default port is 7117. For a known node, ADDR can also be its name, its\n\
         identity, or the first digits of its identity. `join` makes this node a member of\n\
         the network. With --reconnect, the node connects again whenever the link is lost.",
    ),
    CommandSpec::new("join [ADDR...]", "become a member of a node's network", |args| {
        let addresses = join_ports(args.words());
        addresses.iter().try_for_each(|address| check_address(address))?;
        Ok(NodeCommand::Join { addresses })
    })
    .more(
        "Without ADDR, it joins through the bootstrap nodes (--bootstrap, PEERKIT_BOOTSTRAP,\n\
         the file `bootstrap` in the state folder) and the known peers. One address that\n\
         answers is enough; give several to be safe. A member finds and keeps neighbours by\n\
         itself. With --manual, the node only connects to each ADDR.",
    ),
    CommandSpec::new("disconnect PEER", "close the link to a peer, inbound or outbound", |args| {
        Ok(NodeCommand::Disconnect { peer: args.last_word("a peer")? })
    }),
    CommandSpec::new("peers", "list connected nodes, and nodes known from before", |args| {
        args.end(NodeCommand::Peers)
    }),
    CommandSpec::new("msg TEXT", "send a text to every connected node", |args| {
        Ok(NodeCommand::Msg { text: args.text()? })
    }),
    CommandSpec::new("send PEER TEXT", "send a text to one node", |args| {
        Ok(NodeCommand::Send { peer: args.word("a peer")?, text: args.text()? })
    })
    .more(
        "Put a name with spaces in quotes: send \"bob smith\" hello. A node without a link is\n\
         found through the network: a known node by its name or first digits, any other by\n\
         its whole identity.",
    ),
    CommandSpec::new(
        "broadcast [--title TITLE] TEXT",
        "send a signed text to the whole network",
        |args| Ok(NodeCommand::Broadcast { title: args.title()?, text: args.text()? }),
    )
    .options(&[CommandOption::new("--title", ValueCount::One("a title"))])
    .more("Put a title with spaces in quotes: broadcast --title \"Good news\" it works."),
    CommandSpec::new("ping [PEER]", "measure the round trip to a peer, or to all peers", |args| {
        Ok(NodeCommand::Ping { peer: args.last_word_if_any()? })
    }),
    CommandSpec::new("discover [DEPTH]", "list the nodes of the network and their links", |args| {
        Ok(NodeCommand::Discover { depth: args.depth()? })
    })
    .more("DEPTH is 1 for neighbours, n for n hops, -1 (the default) for the whole network."),
    CommandSpec::new(
        "add PATH [--to NODE...] [--ticket]",
        "share a file or folder with the network, or with some nodes",
        |args| {
            let to: Vec<String> = args.options.values("--to").map(str::to_owned).collect();
            let ticket = args.options.has("--ticket");
            if ticket && !to.is_empty() {
                return Err(
                    args.usage_error("takes --to or --ticket, not both: give one of the two")
                );
            }
            let path = args.path()?.ok_or_else(|| args.usage_error("needs a path"))?;
            Ok(NodeCommand::Add { path, to, ticket })
        },
    )
    .options(&[
        CommandOption::new("--to", ValueCount::OneOrMore("a node")),
        CommandOption::new("--ticket", ValueCount::None),
    ])
    .more(
        "The file stays in its place: nothing is copied. The path may contain spaces. Without\n\
         options, every member of the network can find and fetch it. With --to, only those\n\
         nodes can. With --ticket, only those with the printed ticket can: treat it like a\n\
         password. Other nodes can't see the file at all.",
    ),
    CommandSpec::new(
        "remove HASH",
        "stop sharing a file or folder; the file itself stays",
        |args| Ok(NodeCommand::Remove { hash: args.name("a hash")? }),
    )
    .more(
        "HASH may also be the first digits of the hash, or the name or path of the share. A\n\
         name or path stops one share; a hash stops all shares with this content.",
    ),
    CommandSpec::new(
        "refresh",
        "check the shared files for changes, and hash changed files",
        |args| args.end(NodeCommand::Refresh),
    )
    .more("It lists the changes, and then all shares, as `files` does."),
    CommandSpec::new(
        "files [SHARE] [--skip N]",
        "list the shares of this node, with the files in folders",
        |args| {
            let skip = args.options.values("--skip").next().map(str::parse::<usize>).transpose();
            let skip = skip.map_err(|_| args.usage_error("takes a number after `--skip`"))?;
            let share = args.name_if_any()?;
            if skip.is_some() && share.is_none() {
                return Err(args.usage_error("skips files of one share: name it"));
            }
            Ok(NodeCommand::Files { share, skip: skip.unwrap_or(0) })
        },
    )
    .options(&[CommandOption::new("--skip", ValueCount::One("a number"))])
    .more(
        "Each file of a folder can be fetched alone by its hash. Of a large folder the first\n\
         1,000 files are listed. With SHARE, a name, path or hash, 10,000 files are listed;\n\
         --skip N leaves out the first N.",
    ),
    CommandSpec::new("search TEXT", "find files by name, across the network", |args| {
        Ok(NodeCommand::Search { text: args.search_text()? })
    }),
    CommandSpec::new(
        "get TICKET|HASH|NAME [PATH] [--from ADDR] [--force]",
        "fetch a file or folder from all its sources, and verify it",
        |args| {
            let from = args.options.values("--from").map(str::to_owned).collect::<Vec<_>>();
            let force = args.options.has("--force");
            let line = args.rest_of_line("a ticket, hash or name")?;
            from.iter().try_for_each(|address| check_address(address))?;
            Ok(NodeCommand::Get { line, from, force })
        },
    )
    .options(&[
        CommandOption::new("--from", ValueCount::One("an address")),
        CommandOption::new("--force", ValueCount::None),
    ])
    .aliases(&["req"])
    .more(
        "NAME is the name of a search result; the first digits of its HASH work too. Without\n\
         PATH it goes to the downloads folder. A PATH that ends with / is a folder, and is\n\
         made. The fetch runs in the background, and continues after a restart. --from ADDR\n\
         also asks the node there, which need not be a member of the network. If a file of\n\
         that name exists, the new file gets a number; --force replaces the old one.",
    ),
    CommandSpec::new("downloads", "list the fetches, with their progress and speed", |args| {
        args.end(NodeCommand::Downloads)
    }),
    CommandSpec::new("pause HASH", "pause a fetch; the part that was fetched is kept", |args| {
        Ok(NodeCommand::Pause { download: args.name("a download")? })
    })
    .more("HASH may also be the first digits of the hash, or the name of the file."),
    CommandSpec::new("resume HASH", "continue a fetch that was paused or has failed", |args| {
        Ok(NodeCommand::Resume { download: args.name("a download")? })
    })
    .more("HASH may also be the first digits of the hash, or the name of the file."),
    CommandSpec::new(
        "cancel HASH",
        "cancel a fetch, and remove the part that was fetched",
        |args| Ok(NodeCommand::Cancel { download: args.name("a download")? }),
    )
    .more("HASH may also be the first digits of the hash, or the name of the file."),
    CommandSpec::new("status", "show this node: links, counters, uptime", |args| {
        args.end(NodeCommand::Status)
    }),
    CommandSpec::new("network", "show the network: nodes, links, degrees, diameter", |args| {
        args.end(NodeCommand::Network)
    })
    .more(
        "The degree of a node is its number of links; the bars show how many nodes have each\n\
         degree. The diameter is the largest distance between two nodes, in hops. Above\n\
         10,000 nodes it is a lower bound. A cut node is a node whose loss would split the\n\
         network.",
    ),
    CommandSpec::new("size", "count the nodes of the network", |args| args.end(NodeCommand::Size))
        .more("Up to about 10,000 nodes are counted; larger networks are estimated from a sample."),
    CommandSpec::new(
        "map [FILE]",
        "draw the network, or write it as .svg, .dot, .graphml or .json",
        |args| Ok(NodeCommand::Map { file: args.path()? }),
    )
    .more(
        "The ending of FILE selects the form. Each link points from the node that dialled.\n\
         .svg      a picture, for browsers and documents\n\
         .dot      for Graphviz: dot -Tpdf FILE.dot > FILE.pdf\n\
         .graphml  for Gephi, yEd, igraph, or networkx.read_graphml(\"FILE.graphml\")\n\
         .json     as `map` prints it with --json; in NetworkX\n          \
         node_link_graph(data, source=\"from\", target=\"to\", edges=\"edges\")",
    ),
    CommandSpec::new("save [FILE]", "write the known peers to a JSON file", |args| {
        Ok(NodeCommand::Save { file: args.path()? })
    })
    .more("The default FILE is peers.json in the state folder."),
    CommandSpec::new("load [FILE]", "read peers from such a file, and connect to them", |args| {
        Ok(NodeCommand::Load { file: args.path()? })
    })
    .more("The default FILE is peers.json in the state folder."),
    CommandSpec::new(
        "set [NAME VALUE]",
        "list the settings, or change one until the node stops",
        |args| Ok(NodeCommand::Set { setting: args.setting()? }),
    )
    .more(
        "set downloads DIR       the folder for fetched files\n\
         set up RATE             bytes a second of files sent, for example 500k; 0: no limit\n\
         set down RATE           bytes a second of files fetched\n\
         set peer-up RATE        as up, to each node\n\
         set peer-down RATE      as down, from each node\n\
         set messages RATE       bytes a second of messages sent; messages above it wait\n\
         set peer-messages RATE  as messages, to each node\n\
         set broadcasts RATE     bytes a second of own broadcasts sent\n\
         set peer-receive RATE   bytes a second read from each node; a faster node has to wait",
    ),
    CommandSpec::new("debug [on|off]", "switch the log of the node's actions on or off", |args| {
        let on = match args.last_word_if_any()?.as_deref() {
            None => None,
            Some("on") => Some(true),
            Some("off") => Some(false),
            Some(other) => return Err(args.usage_error(&format!("is on or off, not `{other}`"))),
        };
        Ok(NodeCommand::Debug { on })
    })
    .more(
        "Without a word it toggles. The log goes to standard error. It has links, messages by\n\
         size and kind, queries, neighbours, broadcasts and transfers, but never their\n\
         contents.",
    ),
    CommandSpec::new("help [COMMAND]", "show this list, or explain one command", |args| {
        Ok(NodeCommand::Help { topic: args.last_word_if_any()? })
    }),
    CommandSpec::new("leave", "leave the network; the node keeps running", |args| {
        args.end(NodeCommand::Leave)
    })
    .more("All links are closed. `join` makes the node a member again."),
    CommandSpec::new("shutdown", "stop the whole network, as its owner", |args| {
        args.end(NodeCommand::Shutdown)
    })
    .more(
        "A network has an owner if its first node was started with --owner KEYFILE. The node\n\
         with that key can stop all nodes. Without an owner it is refused: `exit` stops this\n\
         node.",
    ),
    CommandSpec::new("exit", "say goodbye to all peers, and stop this node", |args| {
        args.end(NodeCommand::Exit)
    })
    .aliases(&["stop", "quit"]),
];
