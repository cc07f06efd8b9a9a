//! The arguments of `get`, on the command line and at the prompt: the content to fetch and its
//! destination.

use std::path::{MAIN_SEPARATOR, Path, PathBuf};

use peerkit::{FetchRequest, FileName, Hash, SharedFile, Ticket, TicketError};

use crate::folders;
use crate::shell_words::{self, ShellWord};

/// Prefix of every ticket.
pub(crate) const TICKET_START: &str = "peerkit1";

/// Maximum number of words into which a ticket may be wrapped. 256: a ticket has some 250 characters.
const MAX_TICKET_WORDS: usize = 256;

/// The content to fetch, as the user gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TicketOrHash {
    /// The content that a ticket describes.
    Ticket(Box<Ticket>),
    /// The content with this hash.
    Hash(Hash),
}

/// Recognises a ticket or a whole hash at the start of `words`, even if it was wrapped into several
/// words. Returns it and the number of words that it takes. Returns `None` if there is neither.
///
/// # Errors
/// If the words begin with a ticket that is incomplete or damaged.
pub(crate) fn recognise<W: AsRef<str>>(
    words: &[W],
) -> Result<Option<(TicketOrHash, usize)>, TicketError> {
    let mut error = None;
    let mut joined = String::new();
    let mut found = None;
    for (number, word) in words.iter().take(MAX_TICKET_WORDS).enumerate() {
        // Mail programs and terminals wrap long lines, so a ticket may be split into words.
        joined.push_str(word.as_ref());
        match joined.parse::<Ticket>() {
            Ok(ticket) => found = Some((TicketOrHash::Ticket(Box::new(ticket)), number + 1)),
            Err(TicketError::NotATicket) => match joined.parse() {
                Ok(hash) => found = Some((TicketOrHash::Hash(hash), number + 1)),
                Err(_) => continue,
            },
            Err(fault) => {
                // The next words may be the other parts of the ticket, so the loop continues. If they
                // are a path instead, the first error is the right one.
                error.get_or_insert(fault);
            }
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    match error {
        Some(error) => Err(error),
        None => Ok(None),
    }
}

/// The arguments of `get`: the content to fetch, its name if it is a search result, and the path to
/// save it at.
pub(crate) type GetArguments = (TicketOrHash, Option<FileName>, Option<PathBuf>);

/// Reads what follows `get` at the prompt: a ticket, a hash, or a search result of `found`, and
/// optionally a path. A search result is given by its name or by the first digits of its hash.
///
/// # Errors
/// If the line begins with none of these, if the name or the digits are ambiguous, or if the path
/// is invalid.
pub(crate) fn read(line: &str, found: &[SharedFile]) -> Result<GetArguments, String> {
    let words: Vec<ShellWord> = shell_words::words(line).collect();
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let (content, name, word_count) = match recognise(&texts).map_err(|error| error.to_string())? {
        Some((content, word_count)) => (content, None, word_count),
        None => {
            let (hash, name, word_count) = find_search_result(line, &words, found)?;
            (TicketOrHash::Hash(hash), name, word_count)
        }
    };
    let rest = words.get(word_count).and_then(|next| line.get(next.start..)).unwrap_or_default();
    if is_ticket_or_hash(rest) {
        return Err(SECOND_TICKET.to_owned());
    }
    Ok((content, name, path(rest).map_err(|error| format!("get {error}"))?))
}

/// Returns the start of a word, for an error message. A damaged ticket may still contain a secret,
/// and error messages may end up in logs. So a long word is never shown whole.
pub(crate) fn shorten_word(word: &str) -> String {
    const SHOWN: usize = 24;
    match word.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}...", word.get(..cut).unwrap_or_default()),
        None => word.to_owned(),
    }
}

/// Returns advice about a word that may be a part of a hash: hex digits, of which a hash has more or fewer.
pub(crate) fn cut_hash(word: &str) -> Option<String> {
    const MIN_DIGITS: usize = 8;
    let is_cut = word.len() >= MIN_DIGITS && word.chars().all(|c| c.is_ascii_hexdigit());
    is_cut.then(|| {
        format!("a hash has 64 hex digits, and this has {}, so copy all of the hash", word.len())
    })
}

/// Error text for a ticket or hash in place of a path. A file of that name would reveal the
/// ticket's secret, so it is refused.
pub(crate) const SECOND_TICKET: &str = "there is a second ticket or hash in place of the PATH, so \
                                        nothing was fetched: fetch one after the other";

/// Returns whether `text` is a ticket or a hash.
pub(crate) fn is_ticket_or_hash(text: &str) -> bool {
    matches!(recognise(&[text]), Ok(Some(_)))
}

/// The hash of a search result, its name, and the number of words that selected it.
type NamedResult = (Hash, Option<FileName>, usize);

/// Returns the search result whose name the line begins with. If there are several, the longest
/// name wins. If there is none, returns the search result whose hash begins with the first word.
fn find_search_result(
    line: &str,
    words: &[ShellWord],
    found: &[SharedFile],
) -> Result<NamedResult, String> {
    // A name may begin with a quote, so an open one is an error only if no name matches.
    let named = find_by_name(line, words, found);
    if let Ok(Some(result)) = named {
        return Ok(result);
    }
    // Reported before an ambiguous name, since the open quote is the more likely mistake.
    if words.iter().any(|word| word.open) {
        return Err("get needs a closing quote: add it, or leave out the opening quote".to_owned());
    }
    named?;
    let word = words.first().map_or("", |word| word.text.as_str());
    if word.is_empty() {
        return Err("get needs a ticket, hash or name between the quotes".to_owned());
    }
    // A word of punctuation alone has no digits, and would match every hash.
    let hashes = found.iter().filter(|_| word.contains(char::is_alphanumeric)).map(|hit| hit.hash);
    match find_by_digits(word, hashes)? {
        Some(hash) => Ok((hash, common_name(found.iter().filter(|hit| hit.hash == hash)), 1)),
        None => Err(format!(
            "`{}` is not a ticket, a hash of 64 hex digits, or the name or first digits of a \
             search result: {}",
            shorten_word(word),
            cut_hash(word).unwrap_or_else(|| "`search` finds files".to_owned()),
        )),
    }
}

/// Returns the search result whose name the line begins with. If there are several, the longest
/// name wins.
fn find_by_name(
    line: &str,
    words: &[ShellWord],
    found: &[SharedFile],
) -> Result<Option<NamedResult>, String> {
    // The longest name first, since both `my` and `my file` may be results.
    for number in (1..=words.len()).rev() {
        let (Some(first), Some(last)) = (words.first(), words.get(number - 1)) else { continue };
        let name = match number {
            1 => first.text.as_str(),
            // The name as it was typed, so that repeated spaces in it are kept.
            _ => line.get(first.start..last.end).unwrap_or_default(),
        };
        let matching = found.iter().filter(|hit| hit.name.matches_name(name));
        if let Some(hash) = single_hash(
            matching.clone().map(|hit| hit.hash),
            name,
            "search results have this name: give the hash",
        )? {
            return Ok(Some((hash, common_name(matching), number)));
        }
    }
    Ok(None)
}

/// Returns the name of `hits`, if all of them have the same name.
fn common_name<'a>(mut hits: impl Iterator<Item = &'a SharedFile>) -> Option<FileName> {
    let first = hits.next()?;
    hits.all(|hit| hit.name == first.name).then(|| first.name.clone())
}

/// Returns the hash that begins with the digits of `text`, or `None` if no hash does.
///
/// # Errors
/// If several hashes begin with them.
pub(crate) fn find_by_digits(
    text: &str,
    hashes: impl Iterator<Item = Hash>,
) -> Result<Option<Hash>, String> {
    let digits = text.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    let matching = hashes.filter(|hash| hash.to_string().starts_with(&digits));
    single_hash(matching, text, "hashes begin with it: give more digits")
}

/// Returns the only hash in `hashes`, or `None` if there is none. If there are different hashes, the
/// error message ends with `several`.
fn single_hash(
    hashes: impl Iterator<Item = Hash>,
    text: &str,
    several: &str,
) -> Result<Option<Hash>, String> {
    let mut hashes: Vec<Hash> = hashes.collect();
    // Files with the same content have one hash, and are not ambiguous.
    hashes.sort_unstable();
    hashes.dedup();
    match hashes[..] {
        [] => Ok(None),
        [hash] => Ok(Some(hash)),
        _ => Err(format!("`{text}` is ambiguous, as {} {several}", hashes.len())),
    }
}

/// Reads the rest of a line as one path. The path may contain spaces, in quotes or not. `~` is the
/// home folder. Returns `None` if the rest is empty.
///
/// # Errors
/// If there is more than one path, the path is empty, or a quote is not closed.
pub(crate) fn path(rest: &str) -> Result<Option<PathBuf>, String> {
    let rest = rest.trim();
    let starts_with_tilde = rest.starts_with('~');
    match name(rest, "path")? {
        // A script with an unset variable gives an empty path. It must not select the default
        // folder.
        Some(name) if name.is_empty() => Err("got an empty path".to_owned()),
        Some(name) if starts_with_tilde => Ok(Some(folders::expand_home(&name))),
        name => Ok(name.map(PathBuf::from)),
    }
}

/// Reads the rest of a line as one name. The name may contain spaces, in quotes or not. Errors call
/// it `what`.
///
/// # Errors
/// If there is more than one name, or a quote is not closed.
pub(crate) fn name(rest: &str, what: &str) -> Result<Option<String>, String> {
    let rest = rest.trim();
    let words: Vec<ShellWord> = shell_words::words(rest).collect();
    if words.iter().any(|word| word.open) {
        return Err("needs a closing quote".to_owned());
    }
    match &words[..] {
        [] => Ok(None),
        [word] => Ok(Some(word.text.clone())),
        several if several.iter().any(|word| word.quoted) => Err(format!(
            "takes one {what}: put all of it in quotes, and nothing after the closing quote"
        )),
        _ => Ok(Some(rest.to_owned())),
    }
}

/// The destination of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SaveLocation {
    /// Into this folder, which is created if it is missing.
    Folder(PathBuf),
    /// To exactly this path, or into it if it is a folder.
    Path(PathBuf),
}

impl SaveLocation {
    /// Reads a path. A path that ends with a separator is a folder, whether it exists or not.
    /// Without a path the destination is `folder`.
    ///
    /// # Errors
    /// If the path is relative and there is no current folder.
    pub(crate) fn new(path: Option<&Path>, folder: &Path) -> std::io::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::Folder(std::path::absolute(folder)?));
        };
        let is_folder = path.to_string_lossy().ends_with(std::path::is_separator);
        let path = std::path::absolute(path)?;
        Ok(if is_folder { Self::Folder(path) } else { Self::Path(path) })
    }

    /// Returns the path that [`Self::new`] reads as this destination.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            // With a separator at its end.
            Self::Folder(folder) => folder.join(""),
            Self::Path(path) => path.clone(),
        }
    }

    /// Sets this as the destination of a request.
    pub(crate) fn apply_to(&self, request: FetchRequest) -> FetchRequest {
        match self {
            Self::Folder(folder) => request.into_folder(folder),
            Self::Path(path) => request.to(path),
        }
    }
}

/// Returns whether a word can only be a destination: it ends with a separator, is an existing folder,
/// or is `-` for standard output.
pub(crate) fn is_destination(word: &str) -> bool {
    word == "-" || word.ends_with(['/', MAIN_SEPARATOR]) || Path::new(word).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            hash: Hash::of(b"content"),
            node: peerkit::NodeId::from_bytes([1; 32]),
            secret: None,
            network: "net".into(),
            addresses: Vec::new(),
            name: None,
        }
    }

    #[test]
    fn a_ticket_is_recognised_however_it_was_wrapped() {
        let text = ticket().to_string();
        let (start, end) = text.split_at(70);
        let marked = format!("{end}>.");
        for words in [vec![text.as_str()], vec![start, end], vec!["<", start, &marked]] {
            let (read, taken) = recognise(&words).unwrap().unwrap();
            assert_eq!((read, taken), (TicketOrHash::Ticket(Box::new(ticket())), words.len()));
        }
        assert_eq!(recognise(&[start, end, "to", "here"]).unwrap().unwrap().1, 2);
        assert_eq!(recognise(&[start, "elsewhere"]), Err(TicketError::Damaged));
        let hash = ticket().hash.to_string();
        let (start, end) = hash.split_at(40);
        let read = recognise(&[start, end, "here"]).unwrap();
        assert_eq!(read, Some((TicketOrHash::Hash(ticket().hash), 2)));
        assert_eq!(recognise(&["abcd", "here"]), Ok(None));
        assert_eq!(recognise::<&str>(&[]), Ok(None));
    }

    #[test]
    fn a_get_line_selects_a_search_result() {
        let hash = |n: &str| Hash::of(n.as_bytes());
        let kind = peerkit::FileKind::File;
        let hit =
            |hash, name: &str| SharedFile { hash, name: name.parse().unwrap(), size: 1, kind };
        let found = [
            hit(hash("1"), "a film.bin"),
            hit(hash("2"), "a"),
            hit(hash("3"), "same"),
            hit(hash("4"), "same"),
            hit(hash("1"), "a film.bin"),
            hit(hash("5"), "one"),
            hit(hash("5"), "caf\u{e9}"),
        ];
        let get = |line: &str| read(line, &found);
        let is = |at: usize, path: Option<&str>| {
            let SharedFile { hash, name, .. } = found[at].clone();
            Ok((TicketOrHash::Hash(hash), Some(name), path.map(PathBuf::from)))
        };
        assert_eq!(get("a film.bin"), is(0, None));
        assert_eq!(get("'a film.bin' to here"), is(0, Some("to here")));
        assert_eq!(get("a film.bin here"), is(0, Some("here")));
        assert_eq!(get("a here"), is(1, Some("here")));
        assert_eq!(get("cafe\u{301}"), is(6, None), "under the name that was asked for");
        let both = hash("5").to_string();
        assert_eq!(
            get(&both[..12]),
            Ok((TicketOrHash::Hash(hash("5")), None, None)),
            "it has two names"
        );
        let digits = &hash("3").to_string()[..10].to_uppercase();
        assert_eq!(get(&format!("{digits} here")), is(2, Some("here")));
        assert!(get("same").unwrap_err().contains("2 search results"));
        assert!(get("other").unwrap_err().contains("`search`"));
        assert!(get("''").unwrap_err().starts_with("get needs a ticket"));
        for open in ["\"", "'other", "'a film.bin' \"to"] {
            let error = get(open).unwrap_err();
            assert!(error.starts_with("get needs a closing quote"), "{open}: {error}");
        }
        let mistyped = format!("x{}", ticket());
        let error = get(&mistyped).unwrap_err();
        assert!(!error.contains(&mistyped[..40]), "it may be a secret: {error}");
        assert!(error.contains(&mistyped[..20]), "{error}");
        let text = ticket().to_string();
        let (start, end) = text.split_at(99);
        let (wanted, _, path) = get(&format!("{start}\n  {end}\n'my folder/'")).unwrap();
        assert_eq!(wanted, TicketOrHash::Ticket(Box::new(ticket())));
        assert_eq!(path, Some("my folder/".into()));
    }

    #[test]
    fn a_path_that_ends_with_a_separator_is_a_folder() {
        let here = std::env::current_dir().unwrap();
        let of =
            |path: Option<&str>| SaveLocation::new(path.map(Path::new), Path::new(".")).unwrap();
        assert_eq!(of(Some("new/")), SaveLocation::Folder(here.join("new/")));
        assert_eq!(of(Some("new")), SaveLocation::Path(here.join("new")));
        assert_eq!(of(None), SaveLocation::Folder(here));
        assert!(
            is_destination("new/")
                && is_destination("-")
                && is_destination(".")
                && !is_destination("new")
        );
    }
}
