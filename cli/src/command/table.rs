//! The table of the commands. `help`, completion, the parser and its suggestions use it.

use super::NodeCommand;
use super::address::{check_address, join_ports};
use super::arguments::ArgumentReader;
use super::options::{CommandOption, ValueCount};

/// The description of a command, and the function that reads its arguments.
#[derive(Debug, Clone)]
pub(crate) struct CommandSpec {
    /// The command with its arguments. The first word is its name, which results also have.
    pub(crate) usage: &'static str,
    /// One line that says what it does.
    pub(crate) summary: &'static str,
    /// Further explanation; may be empty.
    pub(crate) more: &'static str,
    /// Its other names.
    pub(crate) aliases: &'static [&'static str],
    /// Its options. If it has none, words that begin with `--` are ordinary arguments.
    pub(crate) options: &'static [CommandOption],
    /// Reads the arguments.
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

    /// Returns the command's name.
    pub(crate) fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    /// Returns the command's name and its aliases.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name()).chain(self.aliases.iter().copied())
    }
}

/// Every command, in the order in which `help` lists them.
pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::new(
        "connect ADDR [--reconnect]",
        "link to a node, without joining its network",
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
        "Without ADDR, this node joins through the bootstrap nodes (--bootstrap,\n\
         PEERKIT_BOOTSTRAP, the file `bootstrap` in the state folder) and the known peers.\n\
         One address that answers is enough; give several to be safe. A member finds and\n\
         keeps neighbours by itself. If the node was started with --manual, it joins no\n\
         network and only links to each ADDR.",
    ),
    CommandSpec::new("disconnect PEER", "close the link to a peer, inbound or outbound", |args| {
        Ok(NodeCommand::Disconnect { peer: args.last_word("a peer")? })
    }),
    CommandSpec::new("peers", "list the connected nodes, and the other known nodes", |args| {
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
         reached through the network. If this node does not know it, give its whole\n\
         identity.",
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
         options, every member of the network can find and fetch the file. With --to, only\n\
         these nodes can. With --ticket, only nodes that have the printed ticket can: treat\n\
         the ticket like a password. Other nodes can't see the file at all.",
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
        "check the shared files for changes, and hash the changed ones",
        |args| args.end(NodeCommand::Refresh),
    )
    .more("It prints the changes, and then all shares, as `files` does."),
    CommandSpec::new(
        "files [SHARE] [--skip N]",
        "list the shares of this node, with the files in folders",
        |args| {
            let skip = args.options.values("--skip").next().map(str::parse::<usize>).transpose();
            let skip = skip.map_err(|_| args.usage_error("takes a number after `--skip`"))?;
            let share = args.name_if_any()?;
            if skip.is_some() && share.is_none() {
                return Err(args.usage_error("needs a SHARE with `--skip`"));
            }
            Ok(NodeCommand::Files { share, skip: skip.unwrap_or(0) })
        },
    )
    .options(&[CommandOption::new("--skip", ValueCount::One("a number"))])
    .more(
        "Each file in a folder can be fetched alone, by its hash. `files` lists at most 1,000\n\
         files of each folder. With SHARE, the name, path or hash of one share, it lists at\n\
         most 10,000 files; --skip N leaves out the first N.",
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
         PATH the file goes to the downloads folder. A PATH that ends with / is a folder,\n\
         which is made if it is missing. The fetch runs in the background, and continues\n\
         after a restart. --from ADDR also asks the node there, which need not be a member\n\
         of the network. If a file of the same name exists, the name of the new file gets a\n\
         number; --force replaces the old file.",
    ),
    CommandSpec::new("downloads", "list the fetches, with their progress and speed", |args| {
        args.end(NodeCommand::Downloads)
    }),
    CommandSpec::new("pause HASH", "pause a fetch, and keep the part that was fetched", |args| {
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
    CommandSpec::new(
        "status",
        "show this node: its addresses, links, counters and uptime",
        |args| args.end(NodeCommand::Status),
    ),
    CommandSpec::new(
        "network",
        "show figures of the network: nodes, links, degrees, diameter",
        |args| args.end(NodeCommand::Network),
    )
    .more(
        "The degree of a node is its number of links; the bars show how many nodes have each\n\
         degree. The diameter is the largest distance between two nodes, in hops. In a\n\
         network of more than 10,000 nodes it is a lower bound. A cut node is a node whose\n\
         loss would split the network.",
    ),
    CommandSpec::new("size", "count the nodes of the network", |args| args.end(NodeCommand::Size))
        .more("Up to about 10,000 nodes are counted; larger networks are estimated from a sample."),
    CommandSpec::new(
        "map [FILE]",
        "draw the network, or write it as .svg, .dot, .graphml or .json",
        |args| Ok(NodeCommand::Map { file: args.path()? }),
    )
    .more(
        "The ending of FILE selects the format. Each link points from the node that dialled.\n\
         .svg      a picture, for browsers and documents\n\
         .dot      for Graphviz: dot -Tpdf FILE.dot > FILE.pdf\n\
         .graphml  for Gephi, yEd, igraph, or networkx.read_graphml(\"FILE.graphml\")\n\
         .json     what `map` prints with --json; NetworkX reads it with\n          \
         node_link_graph(data, source=\"from\", target=\"to\", edges=\"edges\")",
    ),
    CommandSpec::new("save [FILE]", "write the known peers to a JSON file", |args| {
        Ok(NodeCommand::Save { file: args.path()? })
    })
    .more("The default FILE is peers.json in the state folder."),
    CommandSpec::new("load [FILE]", "read peers from a JSON file, and connect to them", |args| {
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
         set up RATE             maximum rate of files sent\n\
         set down RATE           maximum rate of files fetched\n\
         set peer-up RATE        maximum rate of files sent to each node\n\
         set peer-down RATE      maximum rate of files fetched from each node\n\
         set messages RATE       maximum rate of messages sent; messages above it wait\n\
         set peer-messages RATE  maximum rate of messages sent to each node\n\
         set broadcasts RATE     maximum rate of this node's own broadcasts\n\
         set peer-receive RATE   maximum rate of bytes read from each node; a faster node waits\n\
         RATE is bytes a second, for example 500k or 2MiB; 0 is no limit.",
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
        "Without `on` or `off` it toggles the log. The log goes to standard error. It has a\n\
         line for each link, message (its size and kind), query, neighbour, broadcast and\n\
         transfer, but never their contents.",
    ),
    CommandSpec::new("help [COMMAND]", "show this list, or explain one command", |args| {
        Ok(NodeCommand::Help { topic: args.last_word_if_any()? })
    }),
    CommandSpec::new("leave", "leave the network; the node keeps running", |args| {
        args.end(NodeCommand::Leave)
    })
    .more("All links are closed. `join` makes this node a member again."),
    CommandSpec::new("shutdown", "stop the whole network, as its owner", |args| {
        args.end(NodeCommand::Shutdown)
    })
    .more(
        "A network has an owner if its first node was started with --owner KEYFILE. A node\n\
         with this key can stop all nodes. In a network without an owner `shutdown` fails;\n\
         `exit` stops this node only.",
    ),
    CommandSpec::new("exit", "say goodbye to all peers, and stop this node", |args| {
        args.end(NodeCommand::Exit)
    })
    .aliases(&["stop", "quit"]),
];
