//! The commands: how each is written, what it does, and how its line is read.

use super::NodeCommand;
use super::address::{check_address, with_ports};
use super::arguments::ArgumentReader;
use super::options::{CommandOption, OptionValue};

/// A command as it is typed. `help`, completion and the parser's suggestions come from it, too.
#[derive(Debug, Clone)]
pub(crate) struct CommandSpec {
    /// How it is written. The first word is its name, which results carry.
    pub(crate) usage: &'static str,
    /// What it does, in a line.
    pub(crate) summary: &'static str,
    /// What else there is to know; may be empty.
    pub(crate) more: &'static str,
    /// Other words for it.
    pub(crate) aliases: &'static [&'static str],
    /// Its options. A command without any takes its line as it stands, dashes and all.
    pub(crate) flags: &'static [CommandOption],
    /// Reads what follows its name.
    pub(super) read: fn(&mut ArgumentReader<'_>) -> Result<NodeCommand, String>,
}

impl CommandSpec {
    const fn new(
        usage: &'static str,
        summary: &'static str,
        read: fn(&mut ArgumentReader<'_>) -> Result<NodeCommand, String>,
    ) -> Self {
        Self { usage, summary, more: "", aliases: &[], flags: &[], read }
    }

    const fn flags(self, flags: &'static [CommandOption]) -> Self {
        Self { flags, ..self }
    }

    const fn also(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn more(self, more: &'static str) -> Self {
        Self { more, ..self }
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    /// Returns its name and the other words for it.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name()).chain(self.aliases.iter().copied())
    }
}

/// Every command, in the order in which `help` lists them.
pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::new("connect ADDR [--reconnect]", "link to a node, and nothing else", |rest| {
        let mut words = with_ports(rest.words());
        let (Some(address), true) = (words.pop(), words.is_empty()) else {
            return Err(rest.wrong("takes one address"));
        };
        check_address(&address)?;
        Ok(NodeCommand::Connect { address, reconnect: rest.flags.has("--reconnect") })
    })
    .flags(&[CommandOption::new("--reconnect", OptionValue::Nothing)])
    .more(
        "ADDR is host:port or host port, or ID@host:port to insist on who answers; the port may\n\
         be left out, it is 7117 then. The name of a known node, its identity or the first\n\
         digits of that are addresses too. `join` makes this node a member of the network.\n\
         With --reconnect the link is made again whenever it is lost.",
    ),
    CommandSpec::new("join [ADDR...]", "become a member of a node's network", |rest| {
        let addresses = with_ports(rest.words());
        addresses.iter().try_for_each(|address| check_address(address))?;
        Ok(NodeCommand::Join { addresses })
    })
    .more(
        "Without ADDR: through the bootstrap nodes (--bootstrap, PEERKIT_BOOTSTRAP, the file\n\
         `bootstrap` in the state folder) and the peers that were met before.\n\
         One address that answers is enough; give several to be safe. From then on the node\n\
         finds and keeps its own neighbours. With --manual it links to each ADDR, no more.",
    ),
    CommandSpec::new("disconnect PEER", "close the link with a peer, whoever made it", |rest| {
        Ok(NodeCommand::Disconnect { peer: rest.one("a peer")? })
    }),
    CommandSpec::new("peers", "connected nodes, and those known from before", |rest| {
        rest.nothing(NodeCommand::Peers)
    }),
    CommandSpec::new("msg TEXT", "send a text to every connected node", |rest| {
        Ok(NodeCommand::Msg { text: rest.text()? })
    }),
    CommandSpec::new("send PEER TEXT", "send a text to one node", |rest| {
        Ok(NodeCommand::Send { peer: rest.word("a peer")?, text: rest.text()? })
    })
    .more(
        "A name with spaces goes in quotes: send \"bob smith\" hello. A node without a link \
         is found through the network; by name or first digits if it was met before, else by \
         its whole identity.",
    ),
    CommandSpec::new(
        "broadcast [--title TITLE] TEXT",
        "send a signed text to the whole network",
        |rest| Ok(NodeCommand::Broadcast { title: rest.title()?, text: rest.text()? }),
    )
    .flags(&[CommandOption::new("--title", OptionValue::One("a title"))])
    .more("A title with blanks goes in quotes: broadcast --title \"Good news\" it works."),
    CommandSpec::new("ping [PEER]", "measure the round trip to a peer, or to all", |rest| {
        Ok(NodeCommand::Ping { peer: rest.one_or_none()? })
    }),
    CommandSpec::new("discover [DEPTH]", "ask who is out there", |rest| {
        Ok(NodeCommand::Discover { depth: rest.depth()? })
    })
    .more("DEPTH is 1 for neighbours, n for n hops, -1 (the default) for the whole network."),
    CommandSpec::new(
        "add PATH [--to NODE...] [--ticket]",
        "share a file or a folder, with all or with some",
        |rest| {
            let to: Vec<String> = rest.flags.values("--to").map(str::to_owned).collect();
            let ticket = rest.flags.has("--ticket");
            if ticket && !to.is_empty() {
                return Err(rest.wrong(
                    "is for the nodes of --to, or for who has the ticket: give one of the two",
                ));
            }
            let path = rest.path()?.ok_or_else(|| rest.wrong("needs a path"))?;
            Ok(NodeCommand::Add { path, to, ticket })
        },
    )
    .flags(&[
        CommandOption::new("--to", OptionValue::Some("a node")),
        CommandOption::new("--ticket", OptionValue::Nothing),
    ])
    .more(
        "It stays where it is: nothing is copied. The path may hold spaces.\n\
         Without an option every member of the network can find and fetch it; with --to only\n\
         those nodes; with --ticket only who has the ticket that is printed: treat that like a\n\
         password. For all others it is as if it were not there.",
    ),
    CommandSpec::new("remove HASH", "share it no longer; the file itself stays", |rest| {
        Ok(NodeCommand::Remove { hash: rest.rest("a hash")? })
    })
    .more(
        "The first digits of the hash, the file's name or its path will do. A name or a path is\n\
         that of one share; a hash is that of all shares with this content.",
    ),
    CommandSpec::new(
        "refresh",
        "look at the shared files again and hash what has changed",
        |rest| rest.nothing(NodeCommand::Refresh),
    )
    .more("It lists what has changed, and then all that is shared, as `files` does."),
    CommandSpec::new(
        "files [SHARE] [--skip N]",
        "what this node shares, with the files in folders",
        |rest| {
            let skip = rest.flags.values("--skip").next().map(str::parse::<usize>).transpose();
            let skip = skip.map_err(|_| rest.wrong("takes a number after `--skip`"))?;
            let share = rest.rest_or_none()?;
            if skip.is_some() && share.is_none() {
                return Err(rest.wrong("skips files of one share: name it"));
            }
            Ok(NodeCommand::Files { share, skip: skip.unwrap_or(0) })
        },
    )
    .flags(&[CommandOption::new("--skip", OptionValue::One("a number"))])
    .more(
        "Each file has its hash, by which it can be fetched alone. Of a large folder the first\n\
         1,000 are listed; with SHARE, its name, path or hash, 10,000, after the first N.",
    ),
    CommandSpec::new("search TEXT", "find files by name, across the network", |rest| {
        Ok(NodeCommand::Search { text: rest.sought()? })
    }),
    CommandSpec::new(
        "get TICKET|HASH|NAME [PATH] [--from ADDR] [--force]",
        "fetch a file or folder from all who have it, and verify it",
        |rest| {
            let from = rest.flags.values("--from").map(str::to_owned).collect::<Vec<_>>();
            let force = rest.flags.has("--force");
            let line = rest.raw("a ticket, hash or name")?;
            from.iter().try_for_each(|address| check_address(address))?;
            Ok(NodeCommand::Get { line, from, force })
        },
    )
    .flags(&[
        CommandOption::new("--from", OptionValue::One("an address")),
        CommandOption::new("--force", OptionValue::Nothing),
    ])
    .also(&["req"])
    .more(
        "A NAME, or the first digits of a HASH, is of something that a search has found. Without\n\
         PATH it goes to the downloads folder; a PATH that ends with / is a folder, and is made.\n\
         It runs beside other commands, and goes on after a restart.\n\
         --from ADDR asks the node there as well, which need not be a member of the network.\n\
         Where there is a file of that name this one gets a number; --force replaces it.",
    ),
    CommandSpec::new("downloads", "what is being fetched, how far it is and how fast", |rest| {
        rest.nothing(NodeCommand::Downloads)
    }),
    CommandSpec::new("pause HASH", "fetch it no further for now; what has come is kept", |rest| {
        Ok(NodeCommand::Pause { download: rest.rest("a download")? })
    })
    .more("The first digits of the hash, or the file's name, will do."),
    CommandSpec::new("resume HASH", "go on with a fetch that was paused or has failed", |rest| {
        Ok(NodeCommand::Resume { download: rest.rest("a download")? })
    })
    .more("The first digits of the hash, or the file's name, will do."),
    CommandSpec::new("cancel HASH", "give up a fetch; what has come of it is removed", |rest| {
        Ok(NodeCommand::Cancel { download: rest.rest("a download")? })
    })
    .more("The first digits of the hash, or the file's name, will do."),
    CommandSpec::new("status", "this node: links, counters, uptime", |rest| {
        rest.nothing(NodeCommand::Status)
    }),
    CommandSpec::new("network", "the network: nodes, links, degrees, diameter", |rest| {
        rest.nothing(NodeCommand::Network)
    })
    .more(
        "A degree is how many links a node has; the bars say how many nodes have so many.\n\
         The diameter is the most hops between two nodes: a lower bound above 10,000 nodes.\n\
         Without any one of its cut nodes the network would fall apart.",
    ),
    CommandSpec::new("size", "how many nodes the network has", |rest| {
        rest.nothing(NodeCommand::Size)
    })
    .more("Counted up to about 10,000, estimated from a sample beyond."),
    CommandSpec::new(
        "map [FILE]",
        "draw the network, or write it as .svg, .dot, .graphml or .json",
        |rest| Ok(NodeCommand::Map { file: rest.path()? }),
    )
    .more(
        "The file's ending says what it will be. In each a link goes from the node that dialled.\n\
         .svg      a picture, for browsers and documents\n\
         .dot      for Graphviz: dot -Tpdf FILE.dot > FILE.pdf\n\
         .graphml  for Gephi, yEd, igraph, or networkx.read_graphml(\"FILE.graphml\")\n\
         .json     as `map` gives it with --json; in NetworkX\n          \
         node_link_graph(data, source=\"from\", target=\"to\", edges=\"edges\")",
    ),
    CommandSpec::new("save [FILE]", "write the known peers to a file, as JSON", |rest| {
        Ok(NodeCommand::Save { file: rest.path()? })
    })
    .more("Without FILE: peers.json in the state folder."),
    CommandSpec::new("load [FILE]", "read peers from such a file and connect to them", |rest| {
        Ok(NodeCommand::Load { file: rest.path()? })
    })
    .more("Without FILE: peers.json in the state folder."),
    CommandSpec::new(
        "set [NAME VALUE]",
        "list the settings, or change one until the node stops",
        |rest| Ok(NodeCommand::Set { setting: rest.setting()? }),
    )
    .more(
        "set downloads DIR       where `get` puts files\n\
         set up RATE             bytes a second of files sent, for example 500k; 0: no limit\n\
         set down RATE           bytes a second of files fetched\n\
         set peer-up RATE        as up, to each node\n\
         set peer-down RATE      as down, from each node\n\
         set messages RATE       bytes a second of messages sent; what is over it waits\n\
         set peer-messages RATE  as messages, to each node\n\
         set broadcasts RATE     bytes a second of own broadcasts sent\n\
         set peer-receive RATE   bytes a second read from each node; it has to wait",
    ),
    CommandSpec::new("debug [on|off]", "log what the node does, on standard error", |rest| {
        let on = match rest.one_or_none()?.as_deref() {
            None => None,
            Some("on") => Some(true),
            Some("off") => Some(false),
            Some(other) => return Err(rest.wrong(&format!("is on or off, not `{other}`"))),
        };
        Ok(NodeCommand::Debug { on })
    })
    .more(
        "Without a word it switches from one to the other. Logged are links, messages by size and \
         kind, queries, neighbours, broadcasts and transfers; never what they contain.",
    ),
    CommandSpec::new("help [COMMAND]", "this list, or more on one command", |rest| {
        Ok(NodeCommand::Help { topic: rest.one_or_none()? })
    }),
    CommandSpec::new("leave", "leave the network; the node goes on alone", |rest| {
        rest.nothing(NodeCommand::Leave)
    })
    .more("All links are closed. `join` makes it a member again."),
    CommandSpec::new("shutdown", "stop the whole network, as its owner", |rest| {
        rest.nothing(NodeCommand::Shutdown)
    })
    .more(
        "A network has an owner where a node was started with --owner KEYFILE before others \
         joined;\n\
         who has that key can stop it. Where there is no owner it is refused: `exit` stops \
         this node.",
    ),
    CommandSpec::new("exit", "say goodbye to all peers and stop", |rest| {
        rest.nothing(NodeCommand::Exit)
    })
    .also(&["stop", "quit"]),
];
