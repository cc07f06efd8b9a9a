//! Sessions compared with a model of two byte queues: the bytes that one end writes are read by the other
//! end, in order. If bytes are missing, the reader gets an error.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;

use super::memory::{Fault, Memory};
use super::*;

/// An end of a session: a channel, or rustls.
trait End: AsyncRead + AsyncWrite + Unpin {
    /// Changes the key for what this end writes next.
    fn update_key(&mut self);
}

impl End for TlsChannel<Memory> {
    fn update_key(&mut self) {
        Self::update_key(self);
    }
}

impl End for TlsStream<Memory> {
    fn update_key(&mut self) {
        refresh(self);
    }
}

/// The two ends of a session: which of them dials, and which of them is rustls.
#[derive(Debug, Clone, Copy)]
enum Pair {
    ChannelDialsChannel,
    ChannelDialsRustls,
    RustlsDialsChannel,
}

const PAIRS: [Pair; 3] =
    [Pair::ChannelDialsChannel, Pair::ChannelDialsRustls, Pair::RustlsDialsChannel];

impl Pair {
    async fn connect(self, seed: u64) -> [Box<dyn End>; 2] {
        let (dialled, accepted) = Memory::pair(seed);
        let (ours, theirs) = (tls(1), tls(2));
        let dial = async {
            if matches!(self, Self::RustlsDialsChannel) {
                let connector = TlsConnector::from(Arc::new(ours.stream));
                let stream = connector.connect(server_name(), dialled).await.unwrap();
                Box::new(TlsStream::from(stream)) as Box<dyn End>
            } else {
                let mut channel = ours.dial(dialled, ChannelPurpose::Stream, None).await.unwrap();
                channel.flush().await.unwrap();
                Box::new(channel)
            }
        };
        let accept = async {
            if matches!(self, Self::ChannelDialsRustls) {
                let acceptor = TlsAcceptor::from(Arc::new(theirs.server));
                Box::new(TlsStream::from(acceptor.accept(accepted).await.unwrap())) as Box<dyn End>
            } else {
                Box::new(theirs.accept(accepted).await.unwrap())
            }
        };
        tokio::join!(dial, accept).into()
    }
}

/// A call at one end. It is polled once, and dropped if it is not ready.
#[derive(Debug, Clone)]
enum Call {
    /// Writes slices of these sizes.
    Write(Vec<usize>),
    /// Reads at most this number of bytes.
    Read(usize),
    Flush,
    UpdateKey,
    /// Updates the keys of both ends.
    UpdateKeys,
    Shutdown,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0..20_usize, 0..2_000_usize, MAX_CONTENT - 3..MAX_CONTENT + 30, 0..60_000_usize]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => prop::collection::vec(size(), 0..4).prop_map(Call::Write),
        12 => size().prop_map(Call::Read),
        3 => Just(Call::Flush),
        3 => Just(Call::UpdateKey),
        2 => Just(Call::UpdateKeys),
    ]
}

/// Generates calls at both ends. Each end may close its direction at any time.
fn calls() -> impl Strategy<Value = Vec<(usize, Call)>> {
    let calls = prop::collection::vec((0..2_usize, call()), 0..120);
    (calls, prop::collection::vec((any::<prop::sample::Index>(), 0..2_usize), 0..2)).prop_map(
        |(mut calls, shutdowns)| {
            for (at, end) in shutdowns {
                calls.insert(at.index(calls.len() + 1), (end, Call::Shutdown));
            }
            calls
        },
    )
}

/// One end, and the model of its output.
struct Side {
    end: Box<dyn End>,
    /// Bytes that this end has written and the other has not read.
    unread: VecDeque<u8>,
    written: usize,
    /// Number of key updates since this end last wrote data.
    updates: u32,
    is_shut_down: bool,
    /// This end has read the end of the stream.
    has_ended: bool,
}

/// Maximum number of key updates in a row without data. 12: a receiver accepts at most 32.
const MAX_UPDATES: u32 = 12;

struct Model([Side; 2]);

impl Model {
    fn new(ends: [Box<dyn End>; 2]) -> Self {
        Self(ends.map(|end| Side {
            end,
            unread: VecDeque::new(),
            written: 0,
            updates: 0,
            is_shut_down: false,
            has_ended: false,
        }))
    }

    fn call(&mut self, at: usize, call: &Call) {
        match call {
            Call::Write(sizes) => self.write(at, sizes),
            Call::Read(room) => self.read(at, *room),
            Call::Flush => drop(self.flush(at)),
            Call::UpdateKey => self.update_key(at),
            Call::UpdateKeys => [0, 1].into_iter().for_each(|at| self.update_key(at)),
            Call::Shutdown => drop(self.shutdown(at)),
        }
    }

    fn write(&mut self, at: usize, sizes: &[usize]) {
        let side = &mut self.0[at];
        if side.is_shut_down {
            return;
        }
        let mut next = side.written;
        let slices: Vec<Vec<u8>> = sizes
            .iter()
            .map(|size| {
                next += size;
                (next - size..next).map(|number| ((number * 31) >> 3) as u8).collect()
            })
            .collect();
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        if let Poll::Ready(wrote) =
            poll(|cx| Pin::new(&mut side.end).poll_write_vectored(cx, &slices))
        {
            let wrote = wrote.unwrap();
            assert!(wrote <= next - side.written);
            side.unread.extend(slices.iter().flat_map(|slice| slice.iter()).take(wrote));
            side.written += wrote;
            if wrote > 0 {
                side.updates = 0;
            }
        }
    }

    fn read(&mut self, at: usize, room: usize) {
        let mut bytes = vec![0; room];
        let mut bytes = ReadBuf::new(&mut bytes);
        let [side, other] = match &mut self.0 {
            [first, second] if at == 0 => [first, second],
            [first, second] => [second, first],
        };
        match poll(|cx| Pin::new(&mut side.end).poll_read(cx, &mut bytes)) {
            Poll::Pending => {}
            Poll::Ready(read) => {
                read.unwrap();
                let len = bytes.filled().len();
                assert!(other.unread.len() >= len, "bytes that were never written");
                assert!(
                    other.unread.drain(..len).eq(bytes.filled().iter().copied()),
                    "changed bytes"
                );
                if len == 0 && room > 0 {
                    assert!(other.is_shut_down && other.unread.is_empty(), "an early end");
                    side.has_ended = true;
                }
            }
        }
    }

    fn update_key(&mut self, at: usize) {
        let side = &mut self.0[at];
        if side.updates < MAX_UPDATES && !side.is_shut_down {
            side.updates += 1;
            side.end.update_key();
        }
    }

    fn flush(&mut self, at: usize) -> Poll<()> {
        poll(|cx| Pin::new(&mut self.0[at].end).poll_flush(cx)).map(Result::unwrap)
    }

    fn shutdown(&mut self, at: usize) -> Poll<()> {
        self.0[at].is_shut_down = true;
        poll(|cx| Pin::new(&mut self.0[at].end).poll_shutdown(cx)).map(Result::unwrap)
    }

    /// Closes both directions, and reads all bytes up to the end.
    fn finish(mut self) {
        let mut is_shut_down = [false; 2];
        for _ in 0..1_000_000 {
            for (at, is_shut_down) in is_shut_down.iter_mut().enumerate() {
                *is_shut_down = *is_shut_down || self.shutdown(at).is_ready();
                self.read(at, 30_000);
            }
            if is_shut_down == [true; 2] && self.0.iter().all(|side| side.has_ended) {
                return;
            }
        }
        panic!("the end is not reached");
    }
}

fn poll<T>(call: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    call(&mut Context::from_waker(Waker::noop()))
}

fn block_on<F: Future>(future: F) -> F::Output {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn all_that_is_written_is_read(
        seed: u64,
        pair in prop::sample::select(&PAIRS[..]),
        calls in calls(),
    ) {
        let mut model = Model::new(block_on(pair.connect(seed)));
        for (at, call) in &calls {
            model.call(*at, call);
        }
        model.finish();
    }
}

#[test]
fn both_ends_can_update_their_keys_many_times() {
    for (seed, pair) in (1..).zip(PAIRS) {
        let mut model = Model::new(block_on(pair.connect(seed)));
        for round in 0..400 {
            model.call(round % 2, &Call::UpdateKeys);
            for at in 0..2 {
                model.write(at, &[3, 4]);
                model.read(at, 50);
            }
        }
        assert!(model.0.iter().all(|side| side.written > 1_000));
        model.finish();
    }
}

/// The writes of one end of a session, while the other end reads.
const WRITTEN: [&[u8]; 3] = [b"first", b"second", b"third"];

/// Runs a session with a `fault` in the direction to the reader. `reader_dials` says which end dials. Returns
/// the bytes that the reader has read, the error that ended its reads, and the number of bytes sent to it.
fn session(reader_dials: bool, fault: Option<Fault>) -> (Vec<u8>, io::Result<()>, usize) {
    let (reader, writer) = Memory::pair(7);
    let writer = match fault {
        Some(fault) => writer.with(fault),
        None => writer,
    };
    let sent = writer.written();
    let (ours, theirs) = (tls(1), tls(2));
    let connect = |end, tls: Tls, dials: bool| async move {
        if dials {
            tls.dial(end, ChannelPurpose::Stream, None).await.map_err(|error| match error {
                TlsDialError::WrongNode(found) => panic!("{found}"),
                TlsDialError::Io(error) => error,
            })
        } else {
            tls.accept(end).await
        }
    };
    let write = async {
        let mut channel = connect(writer, theirs, !reader_dials).await?;
        for bytes in WRITTEN {
            channel.write_all(bytes).await?;
            channel.flush().await?;
            channel.update_key();
        }
        channel.shutdown().await?;
        // Waits until the reader is gone: its transport ends then.
        channel.read(&mut [0; 9]).await
    };
    let mut read = Vec::new();
    let reading = async {
        let mut channel = connect(reader, ours, reader_dials).await?;
        channel.flush().await?;
        channel.read_to_end(&mut read).await?;
        Ok(())
    };
    let ended = block_on(async {
        // If a length was changed, one side waits for ever. Time is paused, so the timeout ends that wait at
        // once.
        let hour = Duration::from_secs(3600);
        let (_, ended) = tokio::join!(timeout(hour, write), timeout(hour, reading));
        ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    });
    (read, ended, sent())
}

#[test]
fn a_stream_that_is_cut_at_any_byte_ends_with_an_error() {
    for reader_dials in [true, false] {
        let (read, ended, sent) = session(reader_dials, None);
        ended.unwrap();
        assert_eq!(read, WRITTEN.concat());
        for at in 0..sent {
            let (read, ended, _) = session(reader_dials, Some(Fault::CutAfter(at)));
            let error = ended.expect_err("a clean end");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "after byte {at}: {error}");
            assert!(WRITTEN.concat().starts_with(&read), "after byte {at}");
        }
    }
}

#[test]
fn a_changed_byte_is_never_read() {
    for reader_dials in [true, false] {
        let (.., sent) = session(reader_dials, None);
        let mut unnoticed = Vec::new();
        for at in 0..sent {
            let (read, ended, _) = session(reader_dials, Some(Fault::ChangedAt(at)));
            assert!(WRITTEN.concat().starts_with(&read), "byte {at}");
            if ended.is_ok() {
                assert_eq!(read, WRITTEN.concat(), "byte {at}");
                unnoticed.push(at);
            }
        }
        // The version field of unprotected records has no meaning. tokio-rustls also ignores that of
        // protected ones.
        if cfg!(not(feature = "reference-tls")) {
            assert!(unnoticed.len() <= 4, "{unnoticed:?}");
        }
    }
}
