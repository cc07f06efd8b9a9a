//! aria2 over BitTorrent: one seed, one fetcher, and our own tracker through which they find each
//! other.

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

/// Bytes of a piece. 1 MiB is what mktorrent chooses for a GiB.
const PIECE: usize = 1 << 20;

/// Timeout until the seed has announced itself to the tracker.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(20);

/// Measures a fetch of the file.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<TransferResult> {
    let plan = TransferPlan::one(job, original);
    let copies = Copies::of(&plan, original)?;
    let (seed, leech) = (free_port().await?, free_port().await?);
    let (announce, announced) = track(seed)?;
    let torrent = plan.to.join("torrent");
    let described = describe(original.clone(), announce);
    std::fs::write(&torrent, tokio::task::spawn_blocking(described).await??)?;

    let folder = original.path.parent().context("no folder")?;
    let mut command = client(seed, folder, &torrent)?;
    // Skip the check of the file, whose content we know, and keep seeding.
    command.args(["--bt-seed-unverified=true", "--check-integrity=false", "--seed-ratio=0.0"]);
    let mut server = ServerProgram::start(command, seed).await?;
    if tokio::time::timeout(ANNOUNCE_TIMEOUT, announced).await.is_err() {
        bail!(
            "aria2 has not announced the file to the tracker; exit status: {:?}",
            server.ended()?
        );
    }
    server.reset();
    let mut command = client(leech, &plan.folder(0), &torrent)?;
    // Without this it would go on as a seed, and not end.
    command.arg("--seed-time=0");
    let ran = external::run(command).await?;
    let source = server.usage().await;
    server.end().await?;
    copies.check().await?;
    Ok(TransferResult::one(ran.elapsed, source, ran.usage))
}

fn client(port: u16, folder: &Path, torrent: &Path) -> Result<Command> {
    let mut command = external::command("aria2c")?;
    command
        .args(["--no-conf", "--quiet", "--no-proxy=127.0.0.1", "--interface=127.0.0.1"])
        // Ask the tracker only.
        .args(["--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false"])
        // Files in memory need no allocation.
        .args(["--file-allocation=none", "--allow-overwrite=true"])
        .arg(format!("--listen-port={port}"))
        .arg("--dir")
        .arg(folder)
        .arg(torrent);
    Ok(command)
}

/// Runs a tracker that knows one seed, at the port `seed`. Returns its address, and a receiver that
/// fires once the seed has announced itself.
fn track(seed: u16) -> Result<(String, oneshot::Receiver<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}/announce", listener.local_addr()?);
    let (announce, announced) = oneshot::channel();
    let mut announce = Some(announce);
    let at = [&[127, 0, 0, 1][..], &seed.to_be_bytes()].concat();
    let seed_port = format!("port={seed}");
    let answer = move |path: &str| {
        let is_seed = path.split(['?', '&']).any(|part| part == seed_port);
        if let Some(announce) = announce.take_if(|_| is_seed) {
            let _ = announce.send(());
        }
        // The seed needs no peers, since the fetcher dials it.
        let peers = if is_seed { Vec::new() } else { at.clone() };
        let answer = [("interval", Bencoded::Number(60)), ("peers", Bencoded::Bytes(peers))];
        Ok(Body::Bytes(Bencoded::of(answer).encoded()))
    };
    // The thread stays until this process ends; while it waits for a connection it costs nothing.
    std::thread::spawn(move || http::serve(&listener, answer));
    Ok((address, announced))
}

/// Returns a closure that creates the torrent of a file: hashing takes long, so it runs on a
/// blocking thread.
fn describe(original: Original, announce: String) -> impl FnOnce() -> Result<Vec<u8>> {
    move || {
        let info = [
            ("length", Bencoded::Number(original.bytes)),
            ("name", Bencoded::Bytes(original.name()?.into())),
            ("piece length", Bencoded::Number(PIECE as u64)),
            ("pieces", Bencoded::Bytes(pieces(&original.path)?)),
        ];
        let torrent =
            [("announce", Bencoded::Bytes(announce.into())), ("info", Bencoded::of(info))];
        Ok(Bencoded::of(torrent).encoded())
    }
}

fn pieces(path: &PathBuf) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut piece, mut pieces) = (Vec::with_capacity(PIECE), Vec::new());
    while file.by_ref().take(PIECE as u64).read_to_end(&mut piece)? > 0 {
        pieces.extend_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &piece).as_ref());
        piece.clear();
    }
    Ok(pieces)
}

/// A bencoded value (BEP 3).
enum Bencoded {
    Number(u64),
    Bytes(Vec<u8>),
    /// Sorted by name, as the format demands.
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
    fn a_torrent_is_written_as_bep_3_says() {
        let inner =
            Bencoded::of([("b", Bencoded::Number(42)), ("a", Bencoded::Bytes(b"spam".into()))]);
        let value = Bencoded::of([("info", inner)]);
        assert_eq!(value.encoded(), b"d4:infod1:a4:spam1:bi42eee");
    }
}
