//! A minimal HTTP/1.1 server for the measured programs. It sends one response for each connection.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Maximum time of a read. Connections are served one after the other, so an idle connection delays all
/// others.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a response.
pub(crate) enum Body {
    Bytes(Vec<u8>),
    /// A file. On Linux the kernel sends it from its page cache (sendfile).
    File(File),
}

/// Serves connections one after the other. Each gets the body that `answer` returns for the requested path.
/// Returns only if `accept` fails.
pub(crate) fn serve(
    listener: &TcpListener,
    mut answer: impl FnMut(&str) -> Result<Body>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // A connection without a request is not an error: it may just check that the server listens.
        if let Err(error) = answer_one(&stream, &mut answer) {
            eprintln!("bench: HTTP server: {error:#}");
        }
    }
}

fn answer_one(mut stream: &TcpStream, answer: &mut impl FnMut(&str) -> Result<Body>) -> Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut lines = BufReader::new(stream).lines();
    let Some(request) = lines.next().transpose()? else { return Ok(()) };
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    ensure!(words.next() == Some("GET"), "unsupported request {request:?}");
    let body = answer(words.next().context("the request has no path")?)?;
    let length = match &body {
        Body::Bytes(bytes) => bytes.len() as u64,
        Body::File(file) => file.metadata()?.len(),
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    match body {
        Body::Bytes(bytes) => stream.write_all(&bytes)?,
        Body::File(mut file) => {
            std::io::copy(&mut file, &mut stream)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_request_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, |path| Ok(Body::Bytes(path.into()))));
        drop(TcpStream::connect(address).unwrap());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n/a?b=c"), "{response}");
    }
}
