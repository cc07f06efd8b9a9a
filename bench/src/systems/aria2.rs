//! aria2 over BitTorrent: a source, a receiver, and a tracker of this bench, by which they find each
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

use crate::files::Original;
use crate::http::{self, Body};
use crate::job::Job;
use crate::programs::{self, Server, free_port};
use crate::transfer::{Copies, Moved, Plan};

/// Bytes of a piece. 1 MiB: the choice of mktorrent for a GiB.
const PIECE: usize = 1 << 20;

/// Longest time until the source has announced the file to the tracker.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fetches the file.
pub(crate) async fn fetch(job: &Job, original: &Original) -> Result<Moved> {
    let plan = Plan::one(job, original);
    let copies = Copies::of(&plan, original)?;
    let (seed, leech) = (free_port().await?, free_port().await?);
    let (announce, announced) = track(seed)?;
    let torrent = plan.to.join("torrent");
    let described = describe(original.clone(), announce);
    std::fs::write(&torrent, tokio::task::spawn_blocking(described).await??)?;

    let folder = original.path.parent().context("no folder")?;
    let mut command = client(seed, folder, &torrent)?;
    // It must not check the file, which we know to be good, nor end by itself.
    command.args(["--bt-seed-unverified=true", "--check-integrity=false", "--seed-ratio=0.0"]);
    let mut server = Server::start(command, seed).await?;
    if tokio::time::timeout(PATIENCE, announced).await.is_err() {
        bail!("aria2 has not told the tracker what it shares; its end: {:?}", server.ended()?);
    }
    server.reset();
    let mut command = client(leech, &plan.folder(0), &torrent)?;
    command.arg("--seed-time=0");
    let ran = programs::run(command).await?;
    let source = server.usage().await;
    server.end().await?;
    copies.check().await?;
    Ok(Moved::one(ran.elapsed, source, ran.usage))
}

fn client(port: u16, folder: &Path, torrent: &Path) -> Result<Command> {
    let mut command = programs::command("aria2c")?;
    command
        .args(["--no-conf", "--quiet", "--no-proxy=127.0.0.1", "--interface=127.0.0.1"])
        // Only the tracker is asked for sources.
        .args(["--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false"])
        // There is nothing to allocate if the files are in memory.
        .args(["--file-allocation=none", "--allow-overwrite=true"])
        .arg(format!("--listen-port={port}"))
        .arg("--dir")
        .arg(folder)
        .arg(torrent);
    Ok(command)
}

/// Runs a tracker that knows the source at the port `seed`. Returns its address, and a receiver that
/// learns when the source is there.
fn track(seed: u16) -> Result<(String, oneshot::Receiver<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}/announce", listener.local_addr()?);
    let (tell, told) = oneshot::channel();
    let mut tell = Some(tell);
    let at = [&[127, 0, 0, 1][..], &seed.to_be_bytes()].concat();
    let itself = format!("port={seed}");
    let answer = move |path: &str| {
        let asks_itself = path.split(['?', '&']).any(|part| part == itself);
        if let Some(tell) = tell.take_if(|_| asks_itself) {
            let _ = tell.send(());
        }
        let peers = if asks_itself { Vec::new() } else { at.clone() };
        let answer = [("interval", Value::Number(60)), ("peers", Value::Bytes(peers))];
        Ok(Body::Bytes(Value::of(answer).encoded()))
    };
    // It runs until this process ends. It costs nothing while it waits.
    std::thread::spawn(move || http::serve(&listener, answer));
    Ok((address, told))
}

/// Makes the torrent of a file.
fn describe(original: Original, announce: String) -> impl FnOnce() -> Result<Vec<u8>> {
    move || {
        let info = [
            ("length", Value::Number(original.bytes)),
            ("name", Value::Bytes(original.name()?.into())),
            ("piece length", Value::Number(PIECE as u64)),
            ("pieces", Value::Bytes(pieces(&original.path)?)),
        ];
        let torrent = [("announce", Value::Bytes(announce.into())), ("info", Value::of(info))];
        Ok(Value::of(torrent).encoded())
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

/// The content of a torrent (BEP 3).
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    /// The keys have to be in the order of their names.
    Fields(BTreeMap<&'static str, Self>),
}

impl Value {
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
        let inner = Value::of([("b", Value::Number(42)), ("a", Value::Bytes(b"spam".into()))]);
        let value = Value::of([("info", inner)]);
        assert_eq!(value.encoded(), b"d4:infod1:a4:spam1:bi42eee");
    }
}
