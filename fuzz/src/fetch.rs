//! A fetch whose sources send any answers in any order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::files::fetch::{
    Claim, Fault, Fetch, Input, MAX_SOURCES, Options, Output, SourceCandidate, SourceId,
};
use peerkit_proto::files::wire::MAX_PER_REQUEST;
use peerkit_proto::files::{FileKind, Layout, PIECE, PieceSet};
use peerkit_proto::id::NodeId;
use peerkit_proto::time::Instant;

/// Number of bytes of one step: the kind of its input, the source, and two arguments.
const STEP: usize = 4;

/// Maximum time until a fetch ends after its last input.
const MAX_TIME_WITHOUT_INPUT: Duration = Duration::from_secs(3600);

/// A fetch, and what it has requested from its driver.
struct DrivenFetch {
    fetch: Fetch,
    now: Instant,
    /// All sources that were dialled so far.
    sources: Vec<SourceId>,
    /// Sources that the fetch has not dropped.
    running: BTreeSet<SourceId>,
    /// Sources that the fetch has dialled or asked. At the end each of them fails, as if it had not answered.
    /// The answers of the steps remove no source.
    asked: BTreeSet<SourceId>,
    is_searching: bool,
    is_opening: bool,
    pieces: u64,
    is_over: bool,
}

/// Runs a fetch. The first byte selects the options. Each four bytes after it are a step.
pub fn fetch(data: &[u8]) {
    let Some((&options_byte, steps)) = data.split_first() else { return };
    let options = Options {
        own: node(0),
        from: (0..options_byte >> 4).map(candidate).collect(),
        ask_network: options_byte & 1 == 0,
        is_patient: options_byte & 2 == 0,
        patience: Duration::from_secs(u64::from(options_byte & 12) * 10),
    };
    let mut driven = DrivenFetch {
        fetch: Fetch::new(Instant::ZERO, options, [options_byte; 32]),
        now: Instant::ZERO,
        sources: Vec::new(),
        running: BTreeSet::new(),
        asked: BTreeSet::new(),
        is_searching: false,
        is_opening: false,
        pieces: 0,
        is_over: false,
    };
    driven.carry_out();
    for step in steps.chunks_exact(STEP) {
        if let Some(input) = driven.input(step) {
            driven.handle(input);
        }
    }
    driven.end();
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn candidate(n: u8) -> SourceCandidate {
    let address = Address::from_socket(([127, 0, 0, n], 7117).into());
    SourceCandidate { id: (!n.is_multiple_of(3)).then(|| node(n)), addresses: vec![address] }
}

impl DrivenFetch {
    fn handle(&mut self, input: Input) {
        self.fetch.handle(self.now, input);
        self.carry_out();
        let due = self.fetch.poll_timeout();
        assert!(!self.is_over || due.is_none(), "a deadline ({due:?}) after the fetch is over");
    }

    /// Checks and carries out the outputs of the fetch.
    fn carry_out(&mut self) {
        while let Some(output) = self.fetch.poll() {
            assert!(!self.is_over, "{output:?} after the fetch is over");
            match output {
                Output::Search => {
                    assert!(!self.is_searching, "one search at a time");
                    self.is_searching = true;
                }
                Output::Dial(source, _) => {
                    assert!(!self.sources.contains(&source), "each attempt has its own id");
                    self.sources.push(source);
                    self.running.insert(source);
                    self.asked.insert(source);
                }
                Output::Prove { source, .. } | Output::Follow(source) => {
                    assert!(self.running.contains(&source));
                    self.asked.insert(source);
                }
                Output::Request { source, first, count } => {
                    assert!(
                        self.running.contains(&source) && (1..=MAX_PER_REQUEST).contains(&count)
                    );
                    assert!(first + u64::from(count) <= self.pieces, "no piece beyond the end");
                    self.asked.insert(source);
                }
                Output::Cancel(source) => assert!(self.running.contains(&source)),
                Output::Open(source) => {
                    assert!(self.running.contains(&source) && !self.is_opening);
                    self.is_opening = true;
                }
                Output::HangUp(source) => {
                    assert!(self.running.remove(&source), "a source is dropped once");
                    self.asked.remove(&source);
                }
                Output::Complete(source) => assert!(self.running.contains(&source)),
                Output::ReportBan { .. } | Output::Reset => {}
                Output::Done | Output::GiveUp(_) => self.is_over = true,
            }
            assert!(self.running.len() <= MAX_SOURCES);
        }
    }

    /// Decodes a step and lets time pass. Returns the input; `None` if the fetch does not expect such an input.
    fn input(&mut self, step: &[u8]) -> Option<Input> {
        let &[kind, number, a, b] = step else { return None };
        self.now = self.now + Duration::from_millis(u64::from(b) * u64::from(b));
        let source = self.sources.iter().rev().nth(usize::from(number)).copied();
        let first = u64::from(a);
        Some(match kind % 15 {
            0 => Input::Timeout,
            1 => Input::Found(candidate(a)),
            2 if self.is_searching => self.searched(),
            3 => Input::Linked,
            4 => Input::Resume,
            5 => Input::Identified { source: source?, id: node(a) },
            6 => {
                let file_kind = if b & 1 == 0 { FileKind::File } else { FileKind::Folder };
                Input::Described {
                    source: source?,
                    claim: Claim { kind: file_kind, size: first * PIECE },
                }
            }
            7 => Input::Proven(source?),
            8 if self.is_opening => self.opened(first, u64::from(number))?,
            9 => Input::Ready { source: source?, is_whole: b & 1 == 0 },
            10 => Input::Whole(source?),
            11 => Input::Holds { source: source?, first: first * 8, bits: vec![b; 5].into() },
            12 => {
                Input::Stored { source: source?, pieces: (first..first + u64::from(b)).collect() }
            }
            13 | 14 => {
                let faults = [
                    Fault::Lie,
                    Fault::Changed,
                    Fault::HungUp,
                    Fault::Unreachable,
                    Fault::Refused,
                    Fault::Lost,
                    Fault::Local,
                ];
                let fault = *faults.get(usize::from(a % 32)).unwrap_or(&Fault::Lost);
                Input::Failed { source: source?, fault }
            }
            _ => return None,
        })
    }

    fn searched(&mut self) -> Input {
        self.is_searching = false;
        Input::Searched
    }

    /// Returns the input that opens a content of `pieces` pieces, of which the first `held` are on the disk.
    fn opened(&mut self, pieces: u64, held: u64) -> Option<Input> {
        let layout = Layout::file(pieces * PIECE).ok()?;
        let mut set = PieceSet::of_count(layout.count()).ok()?;
        (0..held).for_each(|piece| _ = set.insert(piece));
        (self.is_opening, self.pieces) = (false, layout.count());
        Some(Input::Opened { layout: Arc::new(layout), held: set })
    }

    /// Lets no source answer any more, and checks that the fetch ends.
    fn end(&mut self) {
        let end = self.now + MAX_TIME_WITHOUT_INPUT;
        while !self.is_over {
            assert!(self.now < end, "{:?} never ends", self.fetch);
            if self.is_searching {
                let input = self.searched();
                self.handle(input);
            } else if self.is_opening {
                let input = self.opened(3, 0).expect("three pieces");
                self.handle(input);
            } else if let Some(source) = self.asked.pop_first() {
                self.handle(Input::Failed { source, fault: Fault::Unreachable });
            } else {
                let due =
                    self.fetch.poll_timeout().expect("a fetch that is not over has a deadline");
                self.now = self.now.max(due);
                self.handle(Input::Timeout);
            }
        }
    }
}
