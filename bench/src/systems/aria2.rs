//! aria2 over BitTorrent: one seed and one fetcher. They find each other through a tracker, which runs in
//! this process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::external::{self, ServerProgram, free_port};
use crate::files::Original;
use crate::http::{self, Body};
use crate::transfer::{Copies, TransferPlan, TransferResult};
use crate::workload::Job;

/// Size of a piece, in bytes. mktorrent chooses 1 MiB for a file of 1 GiB.
const PIECE: usize = 1 << 20;

/// Maximum time until the seed has announced itself to the tracker.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(20);

/// Measures a fetch of the file.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<TransferResult> {
    let plan = TransferPlan::one(job, original);
    let copies = Copies::new(&plan, original)?;
    let (seed, fetcher) = (free_port().await?, free_port().await?);
    let (announce, announced) = start_tracker(seed)?;
    let torrent = plan.to.join("torrent");
    let write_torrent = torrent_of(original.clone(), announce);
    std::fs::write(&torrent, tokio::task::spawn_blocking(write_torrent).await??)?;

    let folder = original.path.parent().context("the path has no folder")?;
    let mut command = client(seed, folder, &torrent)?;
    // The file is known to be complete, so aria2 need not check it. The seed must not end.
    command.args(["--bt-seed-unverified=true", "--check-integrity=false", "--seed-ratio=0.0"]);
    let mut server = ServerProgram::start(command, seed).await?;
    if tokio::time::timeout(ANNOUNCE_TIMEOUT, announced).await.is_err() {
        bail!(
            "aria2 has not announced the file to the tracker; exit status: {:?}",
            server.exit_status()?
        );
    }
    // The processor time of the server counts from here on.
    server.reset();
    let mut command = client(fetcher, &plan.folder(0), &torrent)?;
    // Without this option, the fetcher would become a seed and would not end.
    command.arg("--seed-time=0");
    let program = external::run(command).await?;
    let source = server.usage().await;
    server.end().await?;
    copies.check().await?;
    Ok(TransferResult::one(program.elapsed, source, program.usage))
}

fn client(port: u16, folder: &Path, torrent: &Path) -> Result<Command> {
    let mut command = external::command("aria2c")?;
    command
        .args(["--no-conf", "--quiet", "--no-proxy=127.0.0.1", "--interface=127.0.0.1"])
        // Peers are found only through the tracker.
        .args(["--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false"])
        // A file in memory needs no allocation in advance.
        .args(["--file-allocation=none", "--allow-overwrite=true"])
        .arg(format!("--listen-port={port}"))
        .arg("--dir")
        .arg(folder)
        .arg(torrent);
    Ok(command)
}

/// Starts a tracker that knows one seed, which has the port `seed`. Returns the address of the tracker, and a
/// receiver that is notified when the seed has announced itself.
fn start_tracker(seed: u16) -> Result<(String, oneshot::Receiver<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}/announce", listener.local_addr()?);
    let (announce, announced) = oneshot::channel();
    let mut announce = Some(announce);
    let seed_peer = [&[127, 0, 0, 1][..], &seed.to_be_bytes()].concat();
    let seed_port = format!("port={seed}");
    let answer = move |path: &str| {
        let is_seed = path.split(['?', '&']).any(|part| part == seed_port);
        if let Some(announce) = announce.take_if(|_| is_seed) {
            let _ = announce.send(());
        }
        // The seed gets no peers, because the fetcher dials it.
        let peers = if is_seed { Vec::new() } else { seed_peer.clone() };
        let answer = [("interval", Bencoded::Number(60)), ("peers", Bencoded::Bytes(peers))];
        Ok(Body::Bytes(Bencoded::of(answer).encoded()))
    };
    // The thread runs until this process ends. It costs nothing while it waits for a connection.
    std::thread::spawn(move || http::serve(&listener, answer));
    Ok((address, announced))
}

/// Returns a closure that creates the torrent of a file. Hashing takes long, so the closure has to run on a
/// blocking thread.
fn torrent_of(original: Original, announce: String) -> impl FnOnce() -> Result<Vec<u8>> {
    move || {
        let info = [
            ("length", Bencoded::Number(original.bytes)),
            ("name", Bencoded::Bytes(original.name()?.into())),
            ("piece length", Bencoded::Number(PIECE as u64)),
            ("pieces", Bencoded::Bytes(piece_hashes(&original.path)?)),
        ];
        let torrent =
            [("announce", Bencoded::Bytes(announce.into())), ("info", Bencoded::of(info))];
        Ok(Bencoded::of(torrent).encoded())
    }
}

/// Returns the SHA-1 hashes of all pieces.
fn piece_hashes(path: &PathBuf) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut piece, mut hashes) = (Vec::with_capacity(PIECE), Vec::new());
    while file.by_ref().take(PIECE as u64).read_to_end(&mut piece)? > 0 {
        hashes.extend_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &piece).as_ref());
        piece.clear();
    }
    Ok(hashes)
}

/// A bencoded value (BEP 3).
enum Bencoded {
    Number(u64),
    Bytes(Vec<u8>),
    /// The format requires that the fields are sorted by name.
    Fields(BTreeMap<&'static str, Self>),
}

impl Bencoded {
    fn of<const N: usize>(fields: [(&'static str, Self); N]) -> Self {
        Self::Fields(fields.into())
    }

    fn encoded(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => format!("i{number}e").into_bytes(),
            Self::Bytes(bytes) => encoded(bytes),
            Self::Fields(fields) => {
                let field = |(name, value): (&&str, &Self)| {
                    [encoded(name.as_bytes()), value.encoded()].concat()
                };
                let fields: Vec<u8> = fields.iter().flat_map(field).collect();
                [&b"d"[..], &fields, b"e"].concat()
            }
        }
    }
}

fn encoded(bytes: &[u8]) -> Vec<u8> {
    [format!("{}:", bytes.len()).as_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_bep_3_says() {
        let inner =
            Bencoded::of([("b", Bencoded::Number(42)), ("a", Bencoded::Bytes(b"spam".into()))]);
        let value = Bencoded::of([("info", inner)]);
        assert_eq!(value.encoded(), b"d4:infod1:a4:spam1:bi42eee");
    }
}
