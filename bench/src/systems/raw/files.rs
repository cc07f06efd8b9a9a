//! A file over raw TLS, with the least possible work for this TLS library and this hash.
//!
//! The source reads and encrypts the file. At the other end one thread decrypts it, and another thread hashes
//! each mebibyte and writes it. There are no requests, no checks and no resumption.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::tls;
use crate::transfer::{TransferOffer, TransferPlan};

/// Number of bytes that are read and encrypted together, and that are received together. They fit into the
/// cache of the processor.
const PART: usize = 256 << 10;

/// Number of bytes that are hashed and written together. Pieces of a node have the same size.
const PIECE: usize = 1 << 20;

/// Maximum number of pieces that wait to be hashed and written.
const MAX_WAITING: usize = 8;

/// The source of the file.
pub(crate) struct Source {
    listener: TcpListener,
    at: SocketAddr,
}

impl Source {
    pub(crate) fn start(plan: &TransferPlan) -> Result<Self> {
        ensure!(
            plan.sources == 1 && plan.upload_rate == 0,
            "raw TLS supports only one source, without a limit"
        );
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        Ok(Self { listener, at })
    }

    /// Sends the file to every client that connects. Returns its name.
    pub(crate) fn share(&self, path: &Path) -> Result<String> {
        let (listener, from) = (self.listener.try_clone()?, path.to_owned());
        thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                if let Err(error) = send(tcp, &from) {
                    eprintln!("bench: raw TLS server: {error:#}");
                }
            }
        });
        let name = path.file_name().and_then(|name| name.to_str());
        Ok(name.context("no name")?.to_owned())
    }

    pub(crate) fn address(&self) -> String {
        self.at.to_string()
    }
}

fn send(tcp: TcpStream, from: &Path) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut session = ServerConnection::new(tls::server()?)?;
    // By default rustls accepts 64 KiB at a time, which would split each part.
    session.set_buffer_limit(Some(PART));
    let mut stream = StreamOwned::new(session, tcp);
    let mut file = File::open(from)?;
    let mut part = vec![0; PART];
    loop {
        match file.read(&mut part)? {
            0 => break,
            read => stream.write_all(part.get(..read).unwrap_or_default())?,
        }
    }
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

/// The fetcher of the file.
pub(crate) struct Fetcher {
    at: SocketAddr,
    to: PathBuf,
}

impl Fetcher {
    pub(crate) fn new(folder: &Path, offer: &TransferOffer) -> Result<Self> {
        let at = offer.addresses.first().context("no source was offered")?.parse()?;
        Ok(Self { at, to: folder.join(&offer.hash) })
    }

    /// Fetches the file. Returns the number of sources, always 1.
    pub(crate) async fn fetch(&self) -> Result<usize> {
        let (at, to) = (self.at, self.to.clone());
        tokio::task::spawn_blocking(move || receive(at, &to)).await??;
        Ok(1)
    }
}

fn receive(at: SocketAddr, to: &Path) -> Result<()> {
    let tcp = TcpStream::connect(at)?;
    tcp.set_nodelay(true)?;
    let session = ClientConnection::new(tls::client()?, tls::server_name()?)?;
    let mut stream = StreamOwned::new(session, ReadAhead::new(tcp));
    let file = File::create_new(to)?;
    let (full, pieces) = mpsc::sync_channel::<Vec<u8>>(MAX_WAITING);
    // The writing thread returns buffers, so that a piece needs no new memory.
    let (empty, spare) = mpsc::channel();
    let writing = thread::spawn(move || hash_and_write(file, &pieces, &empty));
    loop {
        let mut piece: Vec<u8> = spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let read = Read::by_ref(&mut stream).take(PIECE as u64).read_to_end(&mut piece)?;
        if read == 0 || full.send(piece).is_err() {
            break;
        }
    }
    drop(full);
    writing.join().map_err(|_| io::Error::other("the writing thread has panicked"))??;
    Ok(())
}

fn hash_and_write(
    mut file: File,
    pieces: &mpsc::Receiver<Vec<u8>>,
    empty: &mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    for piece in pieces {
        // The hash is compared with nothing, as only its cost matters.
        std::hint::black_box(blake3::hash(&piece));
        file.write_all(&piece)?;
        let _ = empty.send(piece);
    }
    file.sync_all()
}

/// A connection that reads ahead. Without it, TLS would read only a few KiB at a time.
struct ReadAhead {
    tcp: TcpStream,
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
}

impl ReadAhead {
    fn new(tcp: TcpStream) -> Self {
        Self { tcp, buffer: vec![0; PART], taken: 0, filled: 0 }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.filled {
            self.filled = self.tcp.read(&mut self.buffer)?;
            self.taken = 0;
        }
        let mut rest = self.buffer.get(self.taken..self.filled).unwrap_or_default();
        let read = rest.read(out)?;
        self.taken += read;
        Ok(read)
    }
}

impl Write for ReadAhead {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}
