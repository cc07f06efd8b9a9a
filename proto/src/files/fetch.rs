//! One fetch: finds sources, decides which pieces to request from each, and decides when to give up.
//!
//! The state machine never sees a byte of content. Its driver (a node, the simulator or a test) dials
//! sources, checks their proofs, reads and writes pieces, and reports the results:
//!
//! 1. Candidates come from the user, from searches of the network, and from other sources. At most
//!    [`MAX_SOURCES`] sources are in use at once, and at most [`MAX_STARTING`] of these are not ready yet.
//! 2. A source is dialled, proves its identity, and describes the content. The first source that describes
//!    the content has to prove its description. The driver then opens the proven content on the disk. If a
//!    proof takes longer than `PROOF_TIME`, other sources are asked for it too, and the first proof counts.
//! 3. A source with the same description is followed: it reports which pieces it has, and [`schedule`]
//!    decides which of them to request. A source with another description has to prove that one. If it
//!    succeeds, the first prover has lied, and the fetch starts over with the newly proven content.
//! 4. A source that fails is dialled again, after a delay that doubles with each failure. If it has lied, or
//!    if its content has changed, it is never dialled again. While the content is unknown and the fetch is
//!    not patient, a source gets one attempt, or a few if it was reached but hung up.
//! 5. If all sources that may be in use lack the missing pieces, one after the other gives way to a known one that
//!    is not in use.
//! 6. The fetch is given up when no source is left. It is also given up when its patience ends: no piece has
//!    come for that time, and no requested piece is outstanding.
//!
//! The fetch is driven like every state machine of this crate: *handle one input, poll until `None`, sleep
//! until `poll_timeout`*, then pass [`Input::Timeout`]. The driver answers each [`Output::Dial`],
//! [`Output::Prove`], [`Output::Follow`] and [`Output::Request`] with the matching input or with
//! [`Input::Failed`], and has time limits of its own for that. It answers each [`Output::Search`] with
//! [`Input::Searched`], and each [`Output::Open`] with [`Input::Opened`]. So the fetch never sleeps for ever:
//! an answer of the driver is outstanding, or `poll_timeout` returns a time, or the fetch is over.

pub mod schedule;

mod dialling;
mod input;
mod output;
mod retry_delay;
mod search;
mod source;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::layout::Layout;
use super::pieces::PieceSet;
use crate::id::NodeId;
use crate::time::{Instant, earliest};
use schedule::Schedule;
use search::SourceSearch;
use source::{KnownSource, SourceStage};

pub use input::{Claim, Fault, Input, Options};
pub use output::{Ban, GiveUp, Output};
pub use retry_delay::RetryDelay;
pub use source::{SourceCandidate, SourceId};

/// Maximum number of sources in use at once. 16: more do not make a fetch faster, and each is a connection.
pub const MAX_SOURCES: usize = 16;

/// Maximum number of sources that are being dialled or are not ready yet. 4: without this limit, many nodes
/// that fetch the same content from each other would all dial each other at the same time.
pub const MAX_STARTING: usize = 4;

/// Maximum number of sources that are remembered. Further candidates are ignored.
pub const MAX_KNOWN: usize = 256;

/// Maximum number of sources that [`GiveUp::NoneAnswered`] lists. If more have failed, the last failure is
/// reported instead.
const MAX_LISTED: usize = 16;

/// Time after which a stream on which nothing moves is given up. 30 s: in that time TCP sends a lost segment
/// again four times, if its first timeout is 1 s (RFC 6298).
pub const STALL: Duration = Duration::from_secs(30);

/// Time for which a finished fetch stays registered, so that its followers can still fetch from it.
pub const LINGER: Duration = Duration::from_secs(60);

/// Time after which other sources are asked for the proof too, if the first one has not given it.
const PROOF_TIME: Duration = Duration::from_secs(3);

/// Time that is added to the patience while the first search is under way, or while a source is dialled or
/// not ready yet. It is added once, however often sources are dialled.
const EXTRA_PATIENCE: Duration = Duration::from_secs(30);

/// One fetch, from its first source to its last piece.
#[derive(Debug)]
pub struct Fetch {
    own_id: NodeId,
    is_patient: bool,
    patience: Duration,
    sources: Vec<KnownSource>,
    search: SourceSearch,
    content: KnownContent,
    /// The failure to report if the fetch is given up: the last one, or an earlier one that tells the user
    /// more.
    failure: Option<(SourceId, Fault)>,
    /// True once a source has proven its identity.
    has_answer: bool,
    /// The time of the last progress: the fetch began or was resumed, the content was opened, or a piece
    /// came.
    last_progress: Instant,
    /// The time at which a source was last replaced by another one.
    last_replaced: Instant,
    rng: ChaCha8Rng,
    is_over: bool,
    outbox: VecDeque<Output>,
}

/// The content of a fetch: unknown, being opened, or open.
#[derive(Debug)]
enum KnownContent {
    Unknown,
    /// This source has proven the claim, and the driver opens the content on the disk.
    Opening(SourceId, Claim),
    /// The driver has opened the content.
    Settled {
        /// The source that proved the claim.
        by: SourceId,
        claim: Claim,
        schedule: Box<Schedule>,
    },
}

impl Fetch {
    /// Begins a fetch. The seed determines all random decisions.
    #[must_use]
    pub fn new(now: Instant, options: Options, seed: [u8; 32]) -> Self {
        let mut fetch = Self {
            own_id: options.own,
            is_patient: options.is_patient,
            patience: options.patience,
            sources: Vec::new(),
            search: SourceSearch::new(options.ask_network),
            content: KnownContent::Unknown,
            failure: None,
            has_answer: false,
            last_progress: now,
            last_replaced: now,
            rng: ChaCha8Rng::from_seed(seed),
            is_over: false,
            outbox: VecDeque::new(),
        };
        options.from.into_iter().for_each(|candidate| fetch.found(now, candidate));
        fetch.advance(now);
        fetch
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.is_over {
            return;
        }
        match input {
            Input::Timeout => {
                // `advance`, which runs after every input, checks all other deadlines.
                if let KnownContent::Settled { schedule, .. } = &mut self.content {
                    schedule.handle_timeout(now);
                }
            }
            Input::Found(candidate) => self.found(now, candidate),
            Input::Searched => self.search.ended(now),
            Input::Linked => self.search.linked(),
            Input::Resume => self.resume(now),
            Input::Identified { source, id } => self.identified(source, id),
            Input::Described { source, claim } => {
                if let Some(known) = self.running(source)
                    // Only the first description counts: a source must not change the claim that it proves.
                    && known.stage == SourceStage::Dialling
                {
                    known.stage = SourceStage::Described { since: now, claim };
                }
            }
            Input::Proven(source) => self.proven(now, source),
            Input::Opened { layout, held } => self.opened(now, layout, held),
            Input::Ready { source, is_whole } => self.ready(now, source, is_whole),
            Input::Whole(source) => self.pass_to_schedule(now, source, schedule::Input::Whole),
            Input::Holds { source, first, bits } => {
                self.pass_to_schedule(now, source, |id| schedule::Input::Holds(id, first, bits));
            }
            Input::Stored { source, pieces } => self.stored(now, source, pieces),
            Input::Failed { source, fault } => self.failed(now, source, fault),
        }
        if !self.is_over {
            self.advance(now);
        }
    }

    /// Returns the next action for the driver.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// Returns the time at which the driver passes [`Input::Timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over {
            return None;
        }
        let is_proven = !matches!(self.content, KnownContent::Unknown);
        // At the limit, the next dial waits for another source to end, and not for a time.
        let may_dial = self.free_dials() > 0;
        let sources = self.sources.iter().filter_map(|source| match source.stage {
            SourceStage::Waiting(until) => may_dial.then_some(until),
            SourceStage::Described { since, .. } => (!is_proven).then_some(since + PROOF_TIME),
            _ => None,
        });
        let scheduled = match &self.content {
            KnownContent::Settled { schedule, .. } => schedule.poll_timeout(),
            _ => None,
        };
        let search = self.search.due(self.has_ready_source());
        let replace = self.replace_at();
        [scheduled, search, replace, self.end_of_patience()]
            .into_iter()
            .fold(sources.min(), earliest)
    }

    /// Returns the pieces that need not be fetched: those that are verified and written, and those that are
    /// left out. Returns `None` while the content is not open.
    #[must_use]
    pub fn held(&self) -> Option<&PieceSet> {
        match &self.content {
            KnownContent::Settled { schedule, .. } => Some(schedule.held()),
            _ => None,
        }
    }

    /// Returns the number of sources from which pieces can be requested.
    #[must_use]
    pub fn ready_sources(&self) -> usize {
        self.sources.iter().filter(|source| source.is_ready()).count()
    }

    /// Returns whether any source is in use: dialled, asked for a proof, followed or ready.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        self.sources.iter().any(KnownSource::is_running)
    }

    /// Returns whether [`Input::Linked`] can make the next search of the network begin earlier.
    #[must_use]
    pub fn wants_link(&self) -> bool {
        !self.is_over && !self.has_ready_source() && self.search.due(false).is_some()
    }

    /// Returns the identities of all sources whose identity is known.
    pub fn source_ids(&self) -> impl Iterator<Item = NodeId> {
        self.sources.iter().filter_map(|source| source.candidate.id)
    }

    /// Returns the identity of a source, if it is known.
    #[must_use]
    pub fn id_of(&self, source: SourceId) -> Option<NodeId> {
        self.sources.get(source.index)?.candidate.id
    }

    fn has_ready_source(&self) -> bool {
        self.sources.iter().any(KnownSource::is_ready)
    }

    /// Returns whether the fetch waits for sources until its patience ends. If not, the fetch is given up as
    /// soon as no source is left.
    fn waits_for_sources(&self) -> bool {
        self.is_patient || !matches!(self.content, KnownContent::Unknown)
    }

    /// Returns the source of attempt `id`, or `None` if that attempt has ended.
    fn running(&mut self, id: SourceId) -> Option<&mut KnownSource> {
        let source = self.sources.get_mut(id.index)?;
        (source.id == id && source.is_running()).then_some(source)
    }

    fn found(&mut self, now: Instant, candidate: SourceCandidate) {
        if candidate.id == Some(self.own_id) {
            return;
        }
        let same = self.sources.iter_mut().find(|source| candidate.is_same(&source.candidate));
        if let Some(source) = same {
            // The node may have a new address since it was restarted.
            source.add_addresses(candidate.addresses);
        } else if self.sources.len() < MAX_KNOWN {
            // Candidates also come from sources, and a malicious source could name any number of them.
            self.sources.push(KnownSource::new(now, self.sources.len(), candidate));
        }
    }

    fn resume(&mut self, now: Instant) {
        self.search.resume();
        self.last_progress = now;
        for known in &mut self.sources {
            if let SourceStage::Waiting(until) = &mut known.stage {
                *until = now.min(*until);
            }
        }
    }

    /// Handles the proven identity of a source. Hangs up on the source if it is this node itself, a banned
    /// node, or a node that is already another source.
    fn identified(&mut self, source: SourceId, id: NodeId) {
        // A source that is gone without a ban does not count. The node may have been unreachable at the
        // address of that source, and this is another address.
        let is_same = |known: &KnownSource| {
            let counts = known.stage != SourceStage::Gone || known.is_banned;
            known.id != source && known.candidate.id == Some(id) && counts
        };
        let is_refused = id == self.own_id || self.sources.iter().any(is_same);
        let Some(known) = self.running(source) else { return };
        if known.stage != SourceStage::Dialling {
            // The identity must not change any more: the schedule knows the source by the first one.
            return;
        }
        if is_refused {
            known.stage = SourceStage::Gone;
            self.outbox.push_back(Output::HangUp(source));
            return;
        }
        known.candidate.id = Some(id);
        self.has_answer = true;
    }

    fn proven(&mut self, now: Instant, source: SourceId) {
        let Some(known) = self.running(source) else { return };
        let SourceStage::Proving { claim, with_size } = known.stage else { return };
        // Once the content is open, `follow_described` follows this source like any other.
        known.stage = SourceStage::Described { since: now, claim };
        match self.content {
            KnownContent::Unknown => {}
            KnownContent::Settled { by, .. } if with_size => self.start_over(now, by, source),
            // Another source has proven the content already.
            _ => return,
        }
        self.content = KnownContent::Opening(source, claim);
        self.outbox.push_back(Output::Open(source));
    }

    /// Starts over after `prover` has proven another size than `liar`. Bans `liar`, and dials all other
    /// sources again.
    fn start_over(&mut self, now: Instant, liar: SourceId, prover: SourceId) {
        // Honest sources are hung up on too: pieces of the wrong layout were requested from them.
        let others = self.sources.iter_mut().filter(|known| known.id != prover);
        for known in others.filter(|known| known.is_running()) {
            self.outbox.push_back(Output::HangUp(known.id));
            known.stage = SourceStage::Waiting(now);
        }
        self.ban(liar, Ban::Size);
        self.outbox.push_back(Output::Reset);
    }

    /// Makes sure that a source is never dialled again, and reports that.
    fn ban(&mut self, source: SourceId, why: Ban) {
        let Some(known) = self.sources.get_mut(source.index) else { return };
        (known.stage, known.is_banned) = (SourceStage::Gone, true);
        if let Some(id) = known.candidate.id {
            self.outbox.push_back(Output::ReportBan { source, id, why });
        }
    }

    fn opened(&mut self, now: Instant, layout: Arc<Layout>, held: PieceSet) {
        let KnownContent::Opening(by, claim) = self.content else { return };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let schedule = Box::new(Schedule::new(layout, held, seed));
        self.content = KnownContent::Settled { by, claim, schedule };
        // Opening may have taken longer than the patience, as it checks what is on the disk already.
        self.last_progress = now;
    }

    fn ready(&mut self, now: Instant, source: SourceId, is_whole: bool) {
        let Some(known) = self.running(source) else { return };
        if known.stage != SourceStage::Following {
            return;
        }
        known.become_ready();
        self.pass_to_schedule(now, source, schedule::Input::Ready);
        if is_whole {
            self.pass_to_schedule(now, source, schedule::Input::Whole);
        }
    }

    /// Passes an input from a source to the schedule, if the source is ready.
    fn pass_to_schedule(
        &mut self,
        now: Instant,
        source: SourceId,
        input: impl FnOnce(NodeId) -> schedule::Input,
    ) {
        let Some(known) = self.running(source).filter(|known| known.is_ready()) else { return };
        let id = known.candidate.id;
        if let (KnownContent::Settled { schedule, .. }, Some(id)) = (&mut self.content, id) {
            schedule.handle(now, input(id));
        }
    }

    fn stored(&mut self, now: Instant, source: SourceId, pieces: Vec<u64>) {
        let from = self.id_of(source);
        // The pieces are on the disk, so they count even if the source is gone by now.
        if let (KnownContent::Settled { schedule, .. }, Some(from)) = (&mut self.content, from) {
            self.last_progress = now;
            schedule.handle(now, schedule::Input::Arrived { from, pieces });
        }
    }

    fn failed(&mut self, now: Instant, source: SourceId, fault: Fault) {
        if fault == Fault::Local {
            return self.end(GiveUp::Failed(source, fault));
        }
        let waits = self.waits_for_sources();
        let Some(known) = self.sources.get_mut(source.index) else { return };
        let attempt = known.id;
        if known.stage == SourceStage::Gone || (source != attempt && fault != Fault::Lie) {
            // The attempt has ended already. A lie still counts, because it is a reason to ban the source.
            return;
        }
        let is_running = known.is_running();
        // The schedule knows only ready sources. This has to be read before `fail` changes the stage.
        let id = known.candidate.id.filter(|_| known.is_ready());
        known.fail(now, fault, waits);
        if is_running {
            self.outbox.push_back(Output::HangUp(attempt));
        }
        self.unschedule(now, id);
        if fault == Fault::Lie {
            self.ban(source, Ban::Lie);
        }
        // `Changed` tells the user more than any later failure, so it is not overwritten.
        let is_changed = matches!(self.failure, Some((_, Fault::Changed)));
        if fault == Fault::Changed || !is_changed {
            self.failure = Some((source, fault));
        }
    }

    /// Makes all decisions that are due now.
    fn advance(&mut self, now: Instant) {
        self.follow_described(now);
        self.poll_schedule();
        if self.is_over {
            return;
        }
        if self.replace_at().is_some_and(|at| at <= now) {
            self.replace_source(now);
        }
        // Dials come before the check of the patience, because a dial that is under way extends it.
        self.dial(now);
        if self.search.begin_if_due(now, self.has_ready_source()) {
            self.outbox.push_back(Output::Search);
        }
        self.give_up_if_due(now);
    }

    /// Follows the sources whose description matches the settled content, and asks the others to prove
    /// theirs. While no content is proven, asks for the first proof.
    fn follow_described(&mut self, now: Instant) {
        let settled = match &self.content {
            KnownContent::Unknown => return self.ask_for_proof(now),
            KnownContent::Opening(..) => return,
            KnownContent::Settled { claim, .. } => *claim,
        };
        for known in &mut self.sources {
            let SourceStage::Described { claim, .. } = known.stage else { continue };
            if claim == settled {
                known.stage = SourceStage::Following;
                self.outbox.push_back(Output::Follow(known.id));
            } else {
                known.stage = SourceStage::Proving { claim, with_size: true };
                self.outbox.push_back(Output::Prove { source: known.id, with_size: true });
            }
        }
    }

    /// If no source is proving the content, asks the one that described it first. Also asks each source that
    /// described it more than `PROOF_TIME` ago.
    fn ask_for_proof(&mut self, now: Instant) {
        let is_proving = |known: &KnownSource| matches!(known.stage, SourceStage::Proving { .. });
        let mut is_asked = self.sources.iter().any(is_proving);
        let described = self.sources.iter_mut().filter_map(|known| match known.stage {
            SourceStage::Described { since, claim } => Some((since, claim, known)),
            _ => None,
        });
        let mut described: Vec<_> = described.collect();
        described.sort_by_key(|(since, ..)| *since);
        for (since, claim, known) in described {
            // A proof may be a list of 128 MiB, so not every source is asked at once.
            if !is_asked || since + PROOF_TIME <= now {
                known.stage = SourceStage::Proving { claim, with_size: false };
                self.outbox.push_back(Output::Prove { source: known.id, with_size: false });
                is_asked = true;
            }
        }
    }

    /// Turns the outputs of the schedule into outputs of the fetch.
    fn poll_schedule(&mut self) {
        while let KnownContent::Settled { schedule, .. } = &mut self.content
            && let Some(output) = schedule.poll()
        {
            let output = match output {
                schedule::Output::Request { source, first, count } => {
                    self.ready_source(source).map(|source| Output::Request { source, first, count })
                }
                schedule::Output::Cancel(id) => self.ready_source(id).map(Output::Cancel),
                schedule::Output::Done => return self.complete(),
            };
            self.outbox.extend(output);
        }
    }

    /// Removes a source from the schedule, which requests its outstanding pieces from others.
    fn unschedule(&mut self, now: Instant, source: Option<NodeId>) {
        if let (KnownContent::Settled { schedule, .. }, Some(id)) = (&mut self.content, source) {
            schedule.handle(now, schedule::Input::Gone(id));
        }
    }

    fn ready_source(&self, id: NodeId) -> Option<SourceId> {
        let mut ready = self.sources.iter().filter(|known| known.is_ready());
        Some(ready.find(|known| known.candidate.id == Some(id))?.id)
    }

    /// Gives up if no source is left and no further one can be expected, or if the patience has ended.
    fn give_up_if_due(&mut self, now: Instant) {
        let is_gone = |known: &KnownSource| known.stage == SourceStage::Gone;
        // Without any source, `all` below is true, but a patient fetch waits for its first source.
        let waits_for_first = self.waits_for_sources() && self.sources.is_empty();
        let is_hopeless =
            self.search.is_done() && !waits_for_first && self.sources.iter().all(is_gone);
        if is_hopeless || self.end_of_patience().is_some_and(|end| end <= now) {
            self.end(self.give_up_reason());
        }
    }

    /// Returns the time at which the fetch is given up if no piece comes until then. Returns `None` if it
    /// does not wait for sources, or while requested pieces are outstanding: the driver has time limits for
    /// those.
    fn end_of_patience(&self) -> Option<Instant> {
        let is_outstanding = match &self.content {
            KnownContent::Unknown => false,
            // The driver checks the content that is on the disk already, which may take longer than the
            // patience.
            KnownContent::Opening(..) => true,
            KnownContent::Settled { schedule, .. } => schedule.is_waiting(),
        };
        if is_outstanding || !self.waits_for_sources() {
            return None;
        }
        let may_find_source =
            !self.search.is_done() || self.sources.iter().any(KnownSource::is_starting);
        // A dial in a crowded network may take longer than the patience.
        let extra = if may_find_source { EXTRA_PATIENCE } else { Duration::ZERO };
        Some(self.last_progress + self.patience + extra)
    }

    /// Returns the reason to report if the fetch is given up now: the one that tells the user most.
    fn give_up_reason(&self) -> GiveUp {
        let is_silent = |fault| matches!(fault, Fault::Unreachable | Fault::HungUp);
        let silent = self.sources.iter().filter(|known| known.fault.is_some_and(is_silent));
        let silent: Vec<SourceId> = silent.map(|known| known.id).collect();
        match self.failure {
            Some((_, fault))
                if is_silent(fault)
                    && !self.has_answer
                    // A single silent source is reported with its own failure, which says more.
                    && (2..=MAX_LISTED).contains(&silent.len()) =>
            {
                GiveUp::NoneAnswered(silent)
            }
            Some((source, fault)) => GiveUp::Failed(source, fault),
            None if matches!(self.content, KnownContent::Unknown) => GiveUp::NoSource,
            None => GiveUp::NoMore,
        }
    }

    fn complete(&mut self) {
        for known in self.sources.iter().filter(|known| known.is_running()) {
            self.outbox.push_back(match known.stage {
                SourceStage::Following | SourceStage::Ready => Output::Complete(known.id),
                _ => Output::HangUp(known.id),
            });
        }
        self.outbox.push_back(Output::Done);
        self.is_over = true;
    }

    fn end(&mut self, why: GiveUp) {
        let running = self.sources.iter().filter(|known| known.is_running());
        self.outbox.extend(running.map(|known| Output::HangUp(known.id)));
        self.outbox.push_back(Output::GiveUp(why));
        self.is_over = true;
    }
}
