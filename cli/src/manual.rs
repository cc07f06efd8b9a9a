//! The commands and what they do: behind `help`, completion and the parser's suggestions.

use std::fmt::Write as _;

use crate::wanted::TICKET_START;

/// A command as `help` tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name in results.
    pub(crate) name: &'static str,
    /// Other words for it.
    pub(crate) aliases: &'static [&'static str],
    /// How it is written.
    pub(crate) usage: &'static str,
    /// What it does, in a line.
    pub(crate) summary: &'static str,
    /// What else there is to know; may be empty.
    pub(crate) more: &'static str,
}

/// The command of that name, or of which that is another name.
pub(crate) fn entry(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name || entry.aliases.contains(&name))
}

/// Words of other programs, and which command does what they mean.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (&["receive", "recv", "download", "fetch", "pull"], "`get TICKET` fetches a file or folder"),
    (
        &["share", "upload", "serve", "put", "offer", "publish"],
        "`add PATH` shares a file or folder",
    ),
    (&["run", "start", "dial"], "this node runs already: `join ADDR` joins the network of another"),
    (&["list", "ls", "nodes", "who", "users"], "`peers` lists nodes, `files` what is shared"),
    (&["say", "chat", "tell", "write", "message"], "`msg TEXT` sends to every connected node"),
    (&["find", "locate"], "`search TEXT` finds files"),
    (&["kill", "close"], "`exit` stops this node, `disconnect PEER` closes a link"),
    (&["whoami", "id", "info", "address", "addr"], "`status` tells of this node"),
    (&["version"], "`peerkit --version` in a shell prints the version"),
    (&["clear", "cls"], "Ctrl-L clears the screen"),
];

/// Returns the answer to a word that is no command.
pub(crate) fn unknown(word: &str) -> String {
    let is_listed = |(words, _): &&(&[&str], &str)| words.contains(&word);
    if let Some((_, hint)) = ELSEWHERE.iter().find(is_listed) {
        return format!("`{word}` is not a command here: {hint}");
    }
    let is_ticket = word.to_ascii_lowercase().starts_with(TICKET_START);
    if is_ticket || word.parse::<peerkit::Hash>().is_ok() {
        return "this is not a command: put `get` before it to fetch what it stands for".to_owned();
    }
    let lower = word.to_ascii_lowercase();
    if lower != word && entry(&lower).is_some() {
        return format!("commands are written in lower case: `{lower}`");
    }
    let nearest = ENTRIES
        .iter()
        .flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases.iter().copied()))
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min();
    match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => {
            format!("`{word}` is not a command: did you mean `{name}`?")
        }
        _ => format!("`{word}` is not a command: `help` lists them"),
    }
}

/// The text of `help`, or of `help COMMAND`.
pub(crate) fn help(topic: Option<&str>) -> Result<String, String> {
    let Some(topic) = topic else {
        return Ok(overview());
    };
    let entry = entry(topic).ok_or_else(|| unknown(topic))?;
    let mut text = format!("{}\n  {}.", entry.usage, entry.summary);
    for line in entry.more.lines() {
        let _ = write!(text, "\n  {line}");
    }
    if !entry.aliases.is_empty() {
        let _ = write!(text, "\n  Also: {}", entry.aliases.join(", "));
    }
    Ok(text)
}

/// Where what a command does stands in the list: those that are longer have it on the next line.
const COLUMN: usize = 27;

fn overview() -> String {
    let mut text = String::new();
    for Entry { usage, summary, .. } in ENTRIES {
        if usage.len() > COLUMN {
            let _ = writeln!(text, "  {usage}");
            let _ = writeln!(text, "  {:COLUMN$}  {summary}", "");
        } else {
            let _ = writeln!(text, "  {usage:COLUMN$}  {summary}");
        }
    }
    text.push_str(
        "A PEER is a node's name, its identity, or the first digits of it. \
         `help COMMAND` tells more.",
    );
    text
}

/// Every command, in the order in which `help` lists them.
pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        name: "connect",
        aliases: &[],
        usage: "connect ADDR [--reconnect]",
        summary: "link to a node, and nothing else",
        more: "ADDR is host:port or host port, or ID@host:port to insist on who answers; the port may\n\
               be left out, it is 7117 then. The name of a known node, its identity or the first\n\
               digits of that are addresses too. `join` makes this node a member of the network.\n\
               With --reconnect the link is made again whenever it is lost.",
    },
    Entry {
        name: "join",
        aliases: &[],
        usage: "join [ADDR...]",
        summary: "become a member of a node's network",
        more: "Without ADDR: through the bootstrap nodes (--bootstrap, PEERKIT_BOOTSTRAP, the file\n\
               `bootstrap` in the state folder) and the peers that were met before.\n\
               One address that answers is enough; give several to be safe. From then on the node\n\
               finds and keeps its own neighbours. With --manual it links to each ADDR, no more.",
    },
    Entry {
        name: "disconnect",
        aliases: &[],
        usage: "disconnect PEER",
        summary: "close the link with a peer, whoever made it",
        more: "",
    },
    Entry {
        name: "peers",
        aliases: &[],
        usage: "peers",
        summary: "connected nodes, and those known from before",
        more: "",
    },
    Entry {
        name: "msg",
        aliases: &[],
        usage: "msg TEXT",
        summary: "send a text to every connected node",
        more: "",
    },
    Entry {
        name: "send",
        aliases: &[],
        usage: "send PEER TEXT",
        summary: "send a text to one node",
        more: "A name with spaces goes in quotes: send \"bob smith\" hello. A node without a link \
               is found through the network; by name or first digits if it was met before, else by \
               its whole identity.",
    },
    Entry {
        name: "broadcast",
        aliases: &[],
        usage: "broadcast [--title TITLE] TEXT",
        summary: "send a signed text to the whole network",
        more: "A title with blanks goes in quotes: broadcast --title \"Good news\" it works.",
    },
    Entry {
        name: "ping",
        aliases: &[],
        usage: "ping [PEER]",
        summary: "measure the round trip to a peer, or to all",
        more: "",
    },
    Entry {
        name: "discover",
        aliases: &[],
        usage: "discover [DEPTH]",
        summary: "ask who is out there",
        more: "DEPTH is 1 for neighbours, n for n hops, -1 (the default) for the whole network.",
    },
    Entry {
        name: "add",
        aliases: &[],
        usage: "add PATH [--to NODE...] [--ticket]",
        summary: "share a file or a folder, with all or with some",
        more: "It stays where it is: nothing is copied. The path may hold spaces.\n\
               Without an option every member of the network can find and fetch it; with --to only\n\
               those nodes; with --ticket only who has the ticket that is printed: treat that like a\n\
               password. For all others it is as if it were not there.",
    },
    Entry {
        name: "remove",
        aliases: &[],
        usage: "remove HASH",
        summary: "share it no longer; the file itself stays",
        more: "The first digits of the hash, the file's name or its path will do. A name or a path is\n\
               that of one share; a hash is that of all shares with this content.",
    },
    Entry {
        name: "refresh",
        aliases: &[],
        usage: "refresh",
        summary: "look at the shared files again and hash what has changed",
        more: "It lists what has changed, and then all that is shared, as `files` does.",
    },
    Entry {
        name: "files",
        aliases: &[],
        usage: "files [SHARE] [--skip N]",
        summary: "what this node shares, with the files in folders",
        more: "Each file has its hash, by which it can be fetched alone. Of a large folder the first\n\
               1,000 are listed; with SHARE, its name, path or hash, 10,000, after the first N.",
    },
    Entry {
        name: "search",
        aliases: &[],
        usage: "search TEXT",
        summary: "find files by name, across the network",
        more: "",
    },
    Entry {
        name: "get",
        aliases: &["req"],
        usage: "get TICKET|HASH|NAME [PATH] [--from ADDR] [--force]",
        summary: "fetch a file or folder from all who have it, and verify it",
        more: "A NAME, or the first digits of a HASH, is of something that a search has found. Without\n\
               PATH it goes to the downloads folder; a PATH that ends with / is a folder, and is made.\n\
               It runs beside other commands, and goes on after a restart.\n\
               --from ADDR asks the node there as well, which need not be a member of the network.\n\
               Where there is a file of that name this one gets a number; --force replaces it.",
    },
    Entry {
        name: "downloads",
        aliases: &[],
        usage: "downloads",
        summary: "what is being fetched, how far it is and how fast",
        more: "",
    },
    Entry {
        name: "pause",
        aliases: &[],
        usage: "pause HASH",
        summary: "fetch it no further for now; what has come is kept",
        more: "The first digits of the hash, or the file's name, will do.",
    },
    Entry {
        name: "resume",
        aliases: &[],
        usage: "resume HASH",
        summary: "go on with a fetch that was paused or has failed",
        more: "The first digits of the hash, or the file's name, will do.",
    },
    Entry {
        name: "cancel",
        aliases: &[],
        usage: "cancel HASH",
        summary: "give up a fetch; what has come of it is removed",
        more: "The first digits of the hash, or the file's name, will do.",
    },
    Entry {
        name: "status",
        aliases: &[],
        usage: "status",
        summary: "this node: links, counters, uptime",
        more: "",
    },
    Entry {
        name: "network",
        aliases: &[],
        usage: "network",
        summary: "the network: nodes, links, degrees, diameter",
        more: "A degree is how many links a node has; the bars say how many nodes have so many.\n\
               The diameter is the most hops between two nodes: a lower bound above 10,000 nodes.\n\
               Without any one of its cut nodes the network would fall apart.",
    },
    Entry {
        name: "size",
        aliases: &[],
        usage: "size",
        summary: "how many nodes the network has",
        more: "Counted up to about 10,000, estimated from a sample beyond.",
    },
    Entry {
        name: "map",
        aliases: &[],
        usage: "map [FILE]",
        summary: "draw the network, or write it as .svg, .dot, .graphml or .json",
        more: "The file's ending says what it will be. In each a link goes from the node that dialled.\n\
               .svg      a picture, for browsers and documents\n\
               .dot      for Graphviz: dot -Tpdf FILE.dot > FILE.pdf\n\
               .graphml  for Gephi, yEd, igraph, or networkx.read_graphml(\"FILE.graphml\")\n\
               .json     as `map` gives it with --json; in NetworkX\n          \
                         node_link_graph(data, source=\"from\", target=\"to\", edges=\"edges\")",
    },
    Entry {
        name: "save",
        aliases: &[],
        usage: "save [FILE]",
        summary: "write the known peers to a file, as JSON",
        more: "Without FILE: peers.json in the state folder.",
    },
    Entry {
        name: "load",
        aliases: &[],
        usage: "load [FILE]",
        summary: "read peers from such a file and connect to them",
        more: "Without FILE: peers.json in the state folder.",
    },
    Entry {
        name: "set",
        aliases: &[],
        usage: "set [NAME VALUE]",
        summary: "list the settings, or change one until the node stops",
        more: "set downloads DIR       where `get` puts files\n\
               set up RATE             bytes a second of files sent, for example 500k; 0: no limit\n\
               set down RATE           bytes a second of files fetched\n\
               set peer-up RATE        as up, to each node\n\
               set peer-down RATE      as down, from each node\n\
               set messages RATE       bytes a second of messages sent; what is over it waits\n\
               set peer-messages RATE  as messages, to each node\n\
               set broadcasts RATE     bytes a second of own broadcasts sent\n\
               set peer-receive RATE   bytes a second read from each node; it has to wait",
    },
    Entry {
        name: "debug",
        aliases: &[],
        usage: "debug [on|off]",
        summary: "log what the node does, on standard error",
        more: "Without a word it switches from one to the other. Logged are links, messages by size and \
               kind, queries, neighbours, broadcasts and transfers; never what they contain.",
    },
    Entry {
        name: "help",
        aliases: &[],
        usage: "help [COMMAND]",
        summary: "this list, or more on one command",
        more: "",
    },
    Entry {
        name: "leave",
        aliases: &[],
        usage: "leave",
        summary: "leave the network; the node goes on alone",
        more: "All links are closed. `join` makes it a member again.",
    },
    Entry {
        name: "shutdown",
        aliases: &[],
        usage: "shutdown",
        summary: "stop the whole network, as its owner",
        more: "A network has an owner where a node was started with --owner KEYFILE before others joined;\n\
               who has that key can stop it. Where there is no owner it is refused: `exit` stops this node.",
    },
    Entry {
        name: "exit",
        aliases: &["stop", "quit"],
        usage: "exit",
        summary: "say goodbye to all peers and stop",
        more: "",
    },
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_found_and_near_ones_suggested() {
        assert_eq!(entry("req").unwrap().name, "get");
        assert_eq!(entry("quit").unwrap().name, "exit");
        assert!(entry("connec").is_none());
        assert!(unknown("conect").contains("`connect`"));
        assert!(unknown("brodcast").contains("`broadcast`"));
        assert!(unknown("xyzzy").contains("`help`"));
        assert!(unknown("receive").contains("`get TICKET`"));
        assert!(unknown("share").contains("`add PATH`"));
        assert!(unknown("peerkit1abc").contains("`get`"));
        for word in ELSEWHERE.iter().flat_map(|(words, _)| *words) {
            assert!(entry(word).is_none(), "{word} is a command");
        }
    }

    /// The texts of the libraries' errors, as they are in the source.
    fn error_texts(folder: &Path, texts: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                error_texts(&path, texts);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            let errors = source.split("#[error(").skip(1);
            texts.extend(errors.filter_map(|rest| Some(rest.split_once(")]")?.0.to_owned())));
        }
    }

    #[test]
    fn errors_of_the_libraries_name_no_commands_and_no_options() {
        let mut texts = Vec::new();
        for library in ["../node/src", "../proto/src"] {
            error_texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(library), &mut texts);
        }
        assert!(texts.len() > 100, "{}", texts.len());
        let names = ENTRIES.iter().flat_map(|entry| entry.aliases.iter().chain([&entry.name]));
        let names: Vec<_> =
            names.flat_map(|name| [format!("`{name}`"), format!("`{name} ")]).collect();
        for text in texts {
            assert!(!text.contains("--") && !text.contains("`peerkit"), "{text}");
            assert!(!names.iter().any(|name| text.contains(name)), "{text}");
        }
    }

    #[test]
    fn help_tells_of_all_and_of_one() {
        let all = help(None).unwrap();
        for entry in ENTRIES {
            assert!(all.contains(entry.usage), "{}", entry.name);
            assert!(help(Some(entry.name)).unwrap().contains(entry.summary));
        }
        assert!(help(Some("stop")).unwrap().contains("goodbye"));
        assert!(help(Some("nothing")).is_err());
    }
}
