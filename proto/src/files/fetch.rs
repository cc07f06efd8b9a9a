//! One fetch: finds sources, decides what to ask each of them for, and when to give up.
//!
//! The state machine never sees a byte of content. Its driver (a node, the simulator, a test) dials
//! sources, checks their proofs, reads and writes pieces, and reports the results:
//!
//! 1. Candidates come from the user, from searches of the network, and from other sources. Up to
//!    [`MAX_SOURCES`] of them are worked on at once, of which [`MAX_STARTING`] are not ready yet.
//! 2. A source is dialled, proves its identity, and describes the content. The first one is asked to prove
//!    it, and what it proves is opened on the disk. If it takes long, others are asked for the proof as
//!    well, and the first proof counts.
//! 3. A source that describes the same is followed: it says which pieces it has, and [`schedule`]
//!    decides which of them are requested. A source that describes something else has to prove it.
//!    If it can, the first prover has lied, and the fetch starts over with what is proven now.
//! 4. A source that fails is dialled again, later with each failure. A source that lies, or at which the
//!    content has changed, is not. As long as the content is not known, a source is given up after its first
//!    failure, unless the fetch is patient.
//! 5. The fetch is given up when no source is left, or when nothing has come for the time of its
//!    patience and nothing is owed.
//!
//! It is driven like every state machine of this crate: *handle one input, poll until `None`, sleep until
//! `poll_timeout`*, then hand in [`Input::Timeout`]. The driver answers each [`Output::Dial`],
//! [`Output::Prove`], [`Output::Follow`] and [`Output::Request`] with the matching input or
//! [`Input::Failed`], within time limits of its own, each [`Output::Search`] with [`Input::Searched`],
//! and each [`Output::Open`] with [`Input::Opened`]. So the fetch never sleeps for ever: either an
//! answer of the driver is due, or `poll_timeout` is set, or it is over.

pub mod schedule;

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

/// Most sources that are worked on at once. 16: more do not make a fetch faster, and each is a connection.
pub const MAX_SOURCES: usize = 16;

/// Sources that are dialled at once, and not ready yet. 4: if many nodes fetch the same content from each
/// other, each would dial all others at once.
pub const MAX_STARTING: usize = 4;

/// Most sources that are remembered. Further candidates are ignored.
pub const MAX_KNOWN: usize = 256;

/// Most sources whose failures [`GiveUp::NoneAnswered`] names. If more have failed, the last failure is the
/// reason.
const MAX_NAMED: usize = 16;

/// Time that a source has to prove what the content is before another one is asked for the proof too.
const PROVING: Duration = Duration::from_secs(3);

/// Added to the patience while a search or a dial is under way that may bring a source. Sources that
/// are dialled again and again do not prolong it further.
const PENDING: Duration = Duration::from_secs(30);

/// One fetch, from its first source to its last piece.
#[derive(Debug)]
pub struct Fetch {
    own: NodeId,
    is_patient: bool,
    patience: Duration,
    sources: Vec<KnownSource>,
    search: SourceSearch,
    content: KnownContent,
    /// The failure that is reported if the fetch is given up: the last one, or one that says more to the user.
    failure: Option<(SourceId, Fault)>,
    /// A source has answered.
    is_answered: bool,
    /// The time at which the last piece came, or the fetch began.
    useful: Instant,
    chance: ChaCha8Rng,
    is_over: bool,
    outbox: VecDeque<Output>,
}

/// The content, as far as it is known.
#[derive(Debug)]
enum KnownContent {
    Unknown,
    /// The driver opens what this source has proven.
    Opening(SourceId, Claim),
    Settled {
        /// The source that proved it.
        by: SourceId,
        claim: Claim,
        schedule: Box<Schedule>,
    },
}

impl Fetch {
    /// Begins a fetch. All random decisions follow from `seed`.
    #[must_use]
    pub fn new(now: Instant, options: Options, seed: [u8; 32]) -> Self {
        let mut fetch = Self {
            own: options.own,
            is_patient: options.is_patient,
            patience: options.patience,
            sources: Vec::new(),
            search: SourceSearch::new(options.ask_network),
            content: KnownContent::Unknown,
            failure: None,
            is_answered: false,
            useful: now,
            chance: ChaCha8Rng::from_seed(seed),
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
                // `advance` checks all other deadlines, after every input.
                if let KnownContent::Settled { schedule, .. } = &mut self.content {
                    schedule.handle_timeout(now);
                }
            }
            Input::Found(candidate) => self.found(now, candidate),
            Input::Searched => self.search.ended(now),
            Input::Linked => self.search.linked(),
            Input::Resume => self.resume(now),
            Input::Identified { source, id } => self.met(source, id),
            Input::Described { source, claim } => {
                if let Some(known) = self.running(source)
                    // Only the first description counts: a source can't change its claim while it proves it.
                    && known.stage == SourceStage::Dialling
                {
                    known.stage = SourceStage::Described { since: now, claim };
                }
            }
            Input::Proven(source) => self.proven(now, source),
            Input::Opened { layout, held } => self.opened(now, layout, held),
            Input::Ready { source, is_whole } => self.ready(now, source, is_whole),
            Input::Whole(source) => self.schedule(now, source, schedule::Input::Whole),
            Input::Holds { source, first, bits } => {
                self.schedule(now, source, |id| schedule::Input::Holds(id, first, bits));
            }
            Input::Stored { source, pieces } => self.kept(now, source, pieces),
            Input::Failed { source, fault } => self.failed(now, source, fault),
        }
        if !self.is_over {
            self.advance(now);
        }
    }

    /// Returns the next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// Returns the time at which [`Input::Timeout`] is to be handed in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over {
            return None;
        }
        let is_settled = !matches!(self.content, KnownContent::Unknown);
        // Without room, a source is dialled when another one has ended, not at a time.
        let has_room = self.room() > 0;
        let sources = self.sources.iter().filter_map(|source| match source.stage {
            SourceStage::Waiting(until) => has_room.then_some(until),
            SourceStage::Described { since, .. } => (!is_settled).then_some(since + PROVING),
            _ => None,
        });
        let review = match &self.content {
            KnownContent::Settled { schedule, .. } => schedule.poll_timeout(),
            _ => None,
        };
        let search = self.search.due(self.is_fed());
        [review, search, self.end_of_patience()].into_iter().fold(sources.min(), earliest)
    }

    /// Returns the pieces that are verified and written, or left out, once the content is known.
    #[must_use]
    pub fn held(&self) -> Option<&PieceSet> {
        match &self.content {
            KnownContent::Settled { schedule, .. } => Some(schedule.held()),
            _ => None,
        }
    }

    /// Returns the number of sources that can be asked for pieces.
    #[must_use]
    pub fn ready_sources(&self) -> usize {
        self.sources.iter().filter(|source| source.is_ready()).count()
    }

    /// Returns whether any source is being worked on.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        self.sources.iter().any(KnownSource::is_running)
    }

    /// Returns whether a new link would make the fetch search the network earlier: whether
    /// [`Input::Linked`] is of use now.
    #[must_use]
    pub fn wants_link(&self) -> bool {
        !self.is_over && !self.is_fed() && self.search.due(false).is_some()
    }

    /// Returns the identities of all sources that are known.
    pub fn source_ids(&self) -> impl Iterator<Item = NodeId> {
        self.sources.iter().filter_map(|source| source.candidate.id)
    }

    /// Returns the identity of a source, if it is known.
    #[must_use]
    pub fn id_of(&self, source: SourceId) -> Option<NodeId> {
        self.sources.get(source.index)?.candidate.id
    }

    fn is_fed(&self) -> bool {
        self.sources.iter().any(KnownSource::is_ready)
    }

    /// Returns whether the fetch waits for sources as long as its patience lasts.
    fn waits(&self) -> bool {
        self.is_patient || !matches!(self.content, KnownContent::Unknown)
    }

    /// Returns the source of an attempt that is under way.
    fn running(&mut self, id: SourceId) -> Option<&mut KnownSource> {
        let source = self.sources.get_mut(id.index)?;
        (source.id == id && source.is_running()).then_some(source)
    }

    fn found(&mut self, now: Instant, candidate: SourceCandidate) {
        if candidate.id == Some(self.own) {
            return;
        }
        let same = self.sources.iter_mut().find(|source| candidate.is_same(&source.candidate));
        if let Some(source) = same {
            // A node that was restarted may have a new address.
            source.add_addresses(candidate.addresses);
        } else if self.sources.len() < MAX_KNOWN {
            // Sources name further ones, and a liar could name any number of them: hence the bound.
            self.sources.push(KnownSource::new(now, self.sources.len(), candidate));
        }
    }

    fn resume(&mut self, now: Instant) {
        self.search.resume();
        self.useful = now;
        for known in &mut self.sources {
            if let SourceStage::Waiting(until) = &mut known.stage {
                *until = now.min(*until);
            }
        }
    }

    /// Handles that a source has proven its identity. Two sources that are the same node become one.
    fn met(&mut self, source: SourceId, id: NodeId) {
        // A source that is gone does not count: the node may have failed at another address than this one.
        let is_same = |known: &KnownSource| {
            known.id != source && known.candidate.id == Some(id) && known.stage != SourceStage::Gone
        };
        let is_known = id == self.own || self.sources.iter().any(is_same);
        let Some(known) = self.running(source) else { return };
        if known.stage != SourceStage::Dialling {
            // The schedule knows the source by its first identity.
            return;
        }
        if is_known {
            known.stage = SourceStage::Gone;
            self.outbox.push_back(Output::HangUp(source));
            return;
        }
        known.candidate.id = Some(id);
        self.is_answered = true;
    }

    fn proven(&mut self, now: Instant, source: SourceId) {
        let Some(known) = self.running(source) else { return };
        let SourceStage::Proving { claim, with_size } = known.stage else { return };
        // As a described source it is followed by `settle` once the content is open.
        known.stage = SourceStage::Described { since: now, claim };
        match self.content {
            KnownContent::Unknown => {}
            KnownContent::Settled { by, .. } if with_size => self.start_over(now, by, source),
            // Another source has proven the content before.
            _ => return,
        }
        self.content = KnownContent::Opening(source, claim);
        self.outbox.push_back(Output::Open(source));
    }

    /// Starts over after `prover` has proven another size than `liar`. The pieces so far are not those of the
    /// content, so all other sources begin anew.
    fn start_over(&mut self, now: Instant, liar: SourceId, prover: SourceId) {
        // Even honest sources may be sending pieces by the layout of the wrong size.
        let others = self.sources.iter_mut().filter(|known| known.id != prover);
        for known in others.filter(|known| known.is_running()) {
            self.outbox.push_back(Output::HangUp(known.id));
            known.stage = SourceStage::Waiting(now);
        }
        self.ban(liar, Ban::Size);
        self.outbox.push_back(Output::Reset);
    }

    /// Never asks a source again, and reports that.
    fn ban(&mut self, source: SourceId, why: Ban) {
        let Some(known) = self.sources.get_mut(source.index) else { return };
        known.stage = SourceStage::Gone;
        if let Some(id) = known.candidate.id {
            self.outbox.push_back(Output::ReportBan { source, id, why });
        }
    }

    fn opened(&mut self, now: Instant, layout: Arc<Layout>, held: PieceSet) {
        let KnownContent::Opening(by, claim) = self.content else { return };
        let mut seed = [0; 32];
        self.chance.fill_bytes(&mut seed);
        let schedule = Box::new(Schedule::new(layout, held, seed));
        self.content = KnownContent::Settled { by, claim, schedule };
        // The check of the disk may have taken longer than the patience.
        self.useful = now;
    }

    fn ready(&mut self, now: Instant, source: SourceId, is_whole: bool) {
        let Some(known) = self.running(source) else { return };
        if known.stage != SourceStage::Following {
            return;
        }
        known.become_ready();
        self.schedule(now, source, schedule::Input::Ready);
        if is_whole {
            self.schedule(now, source, schedule::Input::Whole);
        }
    }

    /// Hands an input of a ready source to the schedule.
    fn schedule(
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

    fn kept(&mut self, now: Instant, source: SourceId, pieces: Vec<u64>) {
        let from = self.id_of(source);
        // The pieces count even if the source is gone by now: they are on the disk.
        if let (KnownContent::Settled { schedule, .. }, Some(from)) = (&mut self.content, from) {
            self.useful = now;
            schedule.handle(now, schedule::Input::Arrived { from, pieces });
        }
    }

    fn failed(&mut self, now: Instant, source: SourceId, fault: Fault) {
        if fault == Fault::Local {
            return self.end(GiveUp::Failed(source, fault));
        }
        let waits = self.waits();
        let Some(known) = self.sources.get_mut(source.index) else { return };
        let attempt = known.id;
        if known.stage == SourceStage::Gone || (source != attempt && fault != Fault::Lie) {
            // The attempt has ended already. Only a lie still counts, as it says something about the source.
            return;
        }
        let is_running = known.is_running();
        // The schedule knows ready sources only. `fail` changes the stage, so this comes before it.
        let id = known.candidate.id.filter(|_| known.is_ready());
        known.fail(now, fault, waits);
        if is_running {
            self.outbox.push_back(Output::HangUp(attempt));
        }
        // Pieces that the source owes are requested of others at once.
        if let (KnownContent::Settled { schedule, .. }, Some(id)) = (&mut self.content, id) {
            schedule.handle(now, schedule::Input::Gone(id));
        }
        if fault == Fault::Lie {
            self.ban(source, Ban::Lie);
        }
        // That the content has changed says more to the user than any later failure.
        let says_more = matches!(self.failure, Some((_, Fault::Changed)));
        if fault == Fault::Changed || !says_more {
            self.failure = Some((source, fault));
        }
    }

    /// Makes all decisions that are due now.
    fn advance(&mut self, now: Instant) {
        self.settle(now);
        self.pass_on();
        if self.is_over {
            return;
        }
        // Dials come before giving up, as a dial that is under way prolongs the patience.
        self.dial(now);
        if self.search.begins(now, self.is_fed()) {
            self.outbox.push_back(Output::Search);
        }
        self.give_up(now);
    }

    /// Follows the sources that describe the settled content, and asks those that describe something else for a
    /// proof.
    fn settle(&mut self, now: Instant) {
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

    /// Asks the source that has waited longest for the proof. If another source was asked already, asks those
    /// that have waited too long as well.
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
            // A proof may be a list of 128 MiB, so not every source is asked for one at once.
            if !is_asked || since + PROVING <= now {
                known.stage = SourceStage::Proving { claim, with_size: false };
                self.outbox.push_back(Output::Prove { source: known.id, with_size: false });
                is_asked = true;
            }
        }
    }

    /// Passes on the outputs of the schedule.
    fn pass_on(&mut self) {
        while let KnownContent::Settled { schedule, .. } = &mut self.content
            && let Some(output) = schedule.poll()
        {
            let output = match output {
                schedule::Output::Request { source, first, count } => {
                    self.ready_source(source).map(|source| Output::Request { source, first, count })
                }
                schedule::Output::Cancel(id) => self.ready_source(id).map(Output::Cancel),
                schedule::Output::Done => return self.finish(),
            };
            self.outbox.extend(output);
        }
    }

    fn ready_source(&self, id: NodeId) -> Option<SourceId> {
        let mut ready = self.sources.iter().filter(|known| known.is_ready());
        Some(ready.find(|known| known.candidate.id == Some(id))?.id)
    }

    /// Returns the number of further sources that may be dialled now.
    fn room(&self) -> usize {
        let count =
            |is: fn(&KnownSource) -> bool| self.sources.iter().filter(|known| is(known)).count();
        let sources = MAX_SOURCES.saturating_sub(count(KnownSource::is_running));
        sources.min(MAX_STARTING.saturating_sub(count(KnownSource::is_starting)))
    }

    fn dial(&mut self, now: Instant) {
        // Sources are dialled in the order in which they became known, so the user's own come first.
        let room = self.room();
        let is_due = |known: &KnownSource| matches!(known.stage, SourceStage::Waiting(until) if until <= now);
        for known in self.sources.iter_mut().filter(|known| is_due(known)).take(room) {
            known.dial();
            self.outbox.push_back(Output::Dial(known.id, known.candidate.clone()));
        }
    }

    /// Gives up if no source is left that could bring more, and none can be expected.
    fn give_up(&mut self, now: Instant) {
        let is_gone = |known: &KnownSource| known.stage == SourceStage::Gone;
        // `all` below is true of no sources at all, so a patient fetch needs this to wait for its first one.
        let waits_for_first = self.waits() && self.sources.is_empty();
        let is_hopeless =
            self.search.is_done() && !waits_for_first && self.sources.iter().all(is_gone);
        if is_hopeless || self.end_of_patience().is_some_and(|end| end <= now) {
            self.end(self.reason());
        }
    }

    /// Returns the time at which the fetch is given up if nothing comes. Returns `None` if it does not
    /// wait, or if pieces are owed: the driver has time limits for those.
    fn end_of_patience(&self) -> Option<Instant> {
        let is_owed = match &self.content {
            KnownContent::Unknown => false,
            // The driver checks what is on the disk already, which may take longer than any patience.
            KnownContent::Opening(..) => true,
            KnownContent::Settled { schedule, .. } => schedule.is_waiting(),
        };
        if is_owed || !self.waits() {
            return None;
        }
        let is_pending =
            !self.search.is_done() || self.sources.iter().any(KnownSource::is_starting);
        // A dial in a crowded network may take longer than the patience.
        let more = if is_pending { PENDING } else { Duration::ZERO };
        Some(self.useful + self.patience + more)
    }

    /// Returns the reason that says most to the user.
    fn reason(&self) -> GiveUp {
        let is_silent = |fault| matches!(fault, Fault::Unreachable | Fault::HungUp);
        let silent = self.sources.iter().filter(|known| known.fault.is_some_and(is_silent));
        let silent: Vec<SourceId> = silent.map(|known| known.id).collect();
        match self.failure {
            Some((_, fault))
                if is_silent(fault)
                    && !self.is_answered
                    // One silent source alone is named with its own failure, which says more.
                    && (2..=MAX_NAMED).contains(&silent.len()) =>
            {
                GiveUp::NoneAnswered(silent)
            }
            Some((source, fault)) => GiveUp::Failed(source, fault),
            None if matches!(self.content, KnownContent::Unknown) => GiveUp::NoSource,
            None => GiveUp::NoMore,
        }
    }

    fn finish(&mut self) {
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
