//! Both ends of a bare TLS connection: the reference. TLS as a node has it, a four-byte length
//! before each message, written in batches of 64 KiB.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::flow::{Arrivals, Arrived, Rounds, end, message};

mod tls;

/// Bytes gathered for one write.
const BATCH: usize = 64 << 10;

/// Room for one read.
const READ: usize = 256 << 10;

/// Messages between two looks at the clock.
const CLOCK: u64 = 64;

type Stream = TlsStream<TcpStream>;

/// Sends messages of `size` bytes for `length`; returns how many.
pub(crate) async fn send(to: SocketAddr, size: usize, length: Duration) -> Result<u64> {
    let mut stream = connect(to).await?;
    let mut batch = Vec::with_capacity(BATCH + size + 4);
    let started = Instant::now();
    let mut count = 0;
    while count % CLOCK != 0 || started.elapsed() < length {
        put(&mut batch, &message(count, size))?;
        count += 1;
        if batch.len() >= BATCH {
            stream.write_all(&batch).await?;
            batch.clear();
        }
    }
    put(&mut batch, &end(count, size))?;
    stream.write_all(&batch).await?;
    stream.shutdown().await?;
    Ok(count)
}

/// Receives until the last message.
pub(crate) async fn receive(listening: impl Fn(SocketAddr) + Send) -> Result<Arrived> {
    let mut stream = accept(listening).await?;
    let mut buffer = BytesMut::with_capacity(READ);
    let mut arrivals = Arrivals::default();
    loop {
        while let Some(message) = next(&mut buffer) {
            if let Some(arrived) = arrivals.take(&message) {
                return Ok(arrived);
            }
        }
        if !read(&mut stream, &mut buffer).await? {
            bail!("the connection ended before the last message");
        }
    }
}

/// Sends a message to and fro for `length`; returns the rounds' times, shortest first.
pub(crate) async fn ping(to: SocketAddr, size: usize, length: Duration) -> Result<Vec<Duration>> {
    let mut stream = connect(to).await?;
    let mut rounds = Rounds::new(size, length);
    let mut buffer = BytesMut::with_capacity(READ);
    let mut out = Vec::new();
    loop {
        out.clear();
        put(&mut out, &rounds.start())?;
        stream.write_all(&out).await?;
        stream.flush().await?;
        while next(&mut buffer).is_none() {
            if !read(&mut stream, &mut buffer).await? {
                bail!("the connection ended before the last round");
            }
        }
        if rounds.back() {
            stream.shutdown().await?;
            return Ok(rounds.into_times());
        }
    }
}

/// Sends everything back until the other side leaves.
pub(crate) async fn echo(listening: impl Fn(SocketAddr) + Send) -> Result<()> {
    let mut stream = accept(listening).await?;
    let mut buffer = BytesMut::with_capacity(READ);
    let mut out = Vec::new();
    while read(&mut stream, &mut buffer).await? {
        out.clear();
        while let Some(message) = next(&mut buffer) {
            put(&mut out, &message)?;
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, message: &[u8]) -> Result<()> {
    let len = u32::try_from(message.len()).context("too long a message")?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(message);
    Ok(())
}

/// The next whole message of `buffer`.
fn next(buffer: &mut BytesMut) -> Option<BytesMut> {
    let len = u32::from_le_bytes(*buffer.first_chunk()?) as usize;
    if buffer.len() < 4 + len {
        return None;
    }
    buffer.advance(4);
    Some(buffer.split_to(len))
}

/// Reads what is there; false at the end.
async fn read(stream: &mut Stream, buffer: &mut BytesMut) -> Result<bool> {
    buffer.reserve(READ);
    Ok(stream.read_buf(buffer).await? != 0)
}

async fn connect(to: SocketAddr) -> Result<Stream> {
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(tls::client()?).connect(tls::server_name()?, tcp).await?;
    Ok(stream.into())
}

async fn accept(listening: impl Fn(SocketAddr) + Send) -> Result<Stream> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    listening(listener.local_addr()?);
    let (tcp, _) = listener.accept().await?;
    tcp.set_nodelay(true)?;
    Ok(TlsAcceptor::from(tls::server()?).accept(tcp).await?.into())
}
