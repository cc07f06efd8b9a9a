//! Proofs that the description of a source is right.
//!
//! The first source that proves its description decides what is fetched. For a file, the piece list is
//! fetched and checked against the hash. For a folder, the whole manifest is fetched and checked, and so are
//! the piece lists of its files with several pieces.
//!
//! The list of a file proves its size only up to the number of pieces. The size counts as right until another
//! source describes another size. That source then has to prove its size with the last piece.

use std::sync::Arc;

use bytes::Bytes;
use peerkit_proto::files::wire::MAX_PER_REQUEST;
use peerkit_proto::files::{
    Answer, Description, FileKind, FileName, IncomingList, MAX_FILE, MAX_MANIFEST, Manifest,
    ManifestEntry, PIECE, PieceList, PieceValue, Request,
};
use peerkit_proto::id::Hash;

use super::client::Client;
use super::error::FetchError;

/// Maximum number of piece lists of a folder's files that are requested before the first is received, so that
/// not each of them costs a round trip. 32 requests of 47 bytes fit the buffer of any socket.
const LISTS_AHEAD: usize = 32;

/// Content whose description is proven.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) description: Description,
    pub(super) content: ProvenContent,
}

/// The piece lists of proven content.
#[derive(Debug)]
pub(super) enum ProvenContent {
    File {
        list: PieceList,
    },
    Folder {
        manifest: Manifest,
        /// The lists of its files, in order. `None` if a file has at most one piece.
        lists: Vec<Option<Arc<PieceList>>>,
    },
}

/// Fetches and checks everything that has to be known before pieces are fetched. `values` are the first
/// values of the piece list, which the source has sent already.
///
/// # Errors
/// If the source does not answer, or its description is wrong.
pub(super) async fn prove(
    client: &mut Client,
    hash: Hash,
    description: Description,
    values: Vec<PieceValue>,
) -> Result<Proven, FetchError> {
    let limit = match description.kind {
        FileKind::File => MAX_FILE,
        FileKind::Folder => MAX_MANIFEST as u64,
    };
    let size = description.size;
    if size > limit {
        return Err(FetchError::TooLarge { size, limit });
    }
    let list = fetch_list(client, hash, size, &values).await?;
    if size == 0 {
        // An empty file has no piece that could show later that the description is wrong.
        list.verify_piece(0, &[])?;
    }
    let content = match description.kind {
        FileKind::File => ProvenContent::File { list },
        FileKind::Folder => fetch_folder(client, hash, &list, &description.name).await?,
    };
    Ok(Proven { description, content })
}

/// Makes a source prove the size of a file, with the file's last piece.
///
/// # Errors
/// If the size is wrong, or the source does not send the piece.
pub(super) async fn prove_size(
    client: &mut Client,
    hash: Hash,
    proven: &Proven,
) -> Result<(), FetchError> {
    if let ProvenContent::File { list } = &proven.content {
        fetch_piece(client, hash, list, list.count() - 1).await?;
    }
    Ok(())
}

/// Fetches the manifest of a folder, and the piece lists of its files.
async fn fetch_folder(
    client: &mut Client,
    hash: Hash,
    list: &PieceList,
    name: &FileName,
) -> Result<ProvenContent, FetchError> {
    let mut bytes = Vec::new();
    for index in 0..list.count() {
        bytes.extend(fetch_piece(client, hash, list, index).await?);
    }
    // A manifest of 64 MiB takes long to read.
    let manifest = blocking(move || Ok(Manifest::decode(Bytes::from(bytes))?)).await?;
    let files: Vec<(Hash, u64)> = manifest
        .entries()
        .iter()
        .filter_map(|entry| match entry {
            ManifestEntry::File { hash, size, .. } => Some((*hash, *size)),
            ManifestEntry::Folder { .. } => None,
        })
        .collect();
    // An empty file has no piece that could show later that its hash is wrong.
    let empty = Hash::of(b"");
    if let Some((wrong, _)) = files.iter().find(|(hash, size)| *size == 0 && *hash != empty) {
        tracing::debug!(%wrong, "an empty file in the manifest has a wrong hash");
        return Err(FetchError::Unexpected("the folder's list contradicts itself"));
    }
    let is_file = |entry: &&ManifestEntry| matches!(entry, ManifestEntry::File { .. });
    let name_of = |file: usize| match manifest.entries().iter().filter(is_file).nth(file) {
        Some(entry) => format!("{name}/{}", entry.path()),
        None => name.to_string(),
    };
    let lists = fetch_lists(client, &files, name_of).await?;
    Ok(ProvenContent::Folder { manifest, lists })
}

/// Fetches the piece lists of the files that have several pieces.
async fn fetch_lists(
    client: &mut Client,
    files: &[(Hash, u64)],
    name_of: impl Fn(usize) -> String,
) -> Result<Vec<Option<Arc<PieceList>>>, FetchError> {
    let mut lists = vec![None; files.len()];
    let large: Vec<usize> =
        (0..).zip(files).filter(|(_, (_, size))| *size > PIECE).map(|(at, _)| at).collect();
    for some in large.chunks(LISTS_AHEAD) {
        // Lists that take more than one request are fetched one by one.
        let (short, long): (Vec<usize>, Vec<usize>) =
            some.iter().partition(|at| files[**at].1.div_ceil(PIECE) <= u64::from(MAX_PER_REQUEST));
        for at in &short {
            let (hash, size) = files[*at];
            let count = u16::try_from(size.div_ceil(PIECE)).unwrap_or(MAX_PER_REQUEST);
            client.requests.send(&Request::Pieces { hash, first: 0, count }).await?;
        }
        for at in short {
            let (hash, size) = files[at];
            let mut incoming = IncomingList::new(size)?;
            let taken = take_values(client, &mut incoming).await;
            taken.map_err(|error| error.with_name_if_changed(|| name_of(at)))?;
            lists[at] = Some(Arc::new(incoming.finish(&hash)?));
        }
        for at in long {
            let (hash, size) = files[at];
            let list = fetch_list(client, hash, size, &[]).await;
            let list = list.map_err(|error| error.with_name_if_changed(|| name_of(at)))?;
            lists[at] = Some(Arc::new(list));
        }
    }
    Ok(lists)
}

/// Fetches the piece list of `hash`, which is described as `size` bytes, and checks it against the hash.
/// `values` are its first values. Memory is taken for the values that have arrived, not for those that the
/// size announces.
async fn fetch_list(
    client: &mut Client,
    hash: Hash,
    size: u64,
    values: &[PieceValue],
) -> Result<PieceList, FetchError> {
    if let Some(list) = PieceList::single(&hash, size) {
        return Ok(list);
    }
    let mut incoming = IncomingList::new(size)?;
    incoming.push(values)?;
    while let Some((first, count)) = incoming.next_request(MAX_PER_REQUEST) {
        client.requests.send(&Request::Pieces { hash, first, count }).await?;
        take_values(client, &mut incoming).await?;
    }
    blocking(move || Ok(incoming.finish(&hash)?)).await
}

/// Receives the next values of a list.
async fn take_values(client: &mut Client, incoming: &mut IncomingList) -> Result<(), FetchError> {
    let wanted = incoming.next_request(MAX_PER_REQUEST);
    match client.answers.next().await? {
        Answer::Pieces { first, values }
            if wanted == u16::try_from(values.len()).ok().map(|count| (first, count)) =>
        {
            Ok(incoming.push(&values)?)
        }
        Answer::Refused(refusal) => Err(FetchError::Refused(refusal)),
        _ => Err(FetchError::Unexpected("values of the list were requested")),
    }
}

/// Fetches a piece, and checks it against `list`.
async fn fetch_piece(
    client: &mut Client,
    hash: Hash,
    list: &PieceList,
    index: u64,
) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    let len = list.range(index).map_or(0, |range| range.end - range.start);
    if len > 0 {
        client.requests.send(&Request::Data { hash, first: index, count: 1 }).await?;
        match client.answers.next().await? {
            Answer::Piece { index: at, len: n } if at == index && u64::from(n) == len => {}
            Answer::Refused(refusal) => return Err(FetchError::Refused(refusal)),
            _ => return Err(FetchError::Unexpected("another piece was requested")),
        }
        bytes.resize(usize::try_from(len.min(PIECE)).unwrap_or_default(), 0);
        client.answers.content(&mut bytes).await?;
    }
    list.verify_piece(index, &bytes)?;
    Ok(bytes)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    crate::blocking::run(work).await.unwrap_or(Err(FetchError::Stopped))
}
