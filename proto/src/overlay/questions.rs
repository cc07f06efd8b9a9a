//! Sending and answering queries. These concern several parts of the overlay: the node's description answers a query,
//! the budgets of the links decide how far it goes, and the membership checks the records in it.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_core::Rng as _;

use super::budgets::{Standing, Work};
use super::membership::Membership;
use super::query::{AskedPeer, AskingLink, Question};
use super::{Overlay, standing_of};
use crate::event::Peer;
use crate::files::SharedFile;
use crate::frame::query::{
    AnswerBody, MAX_FILES, Query, QueryId, QueryKind, UNLIMITED, UNLIMITED_FOR_STRANGER,
};
use crate::hello::MAX_ADDRESSES;
use crate::id::NodeId;

impl Overlay {
    /// Sends a query into the network, and returns its id. [`Effect::Answered`](super::Effect::Answered) follows for
    /// each answer, and [`Effect::QueryEnded`](super::Effect::QueryEnded) at the end.
    /// [`Input::Query`](crate::peer::Input::Query) describes the parameters.
    pub(crate) fn ask(
        &mut self,
        what: QueryKind,
        depth: i32,
        own: bool,
        timeout: Option<Duration>,
    ) -> QueryId {
        // On the wire, 254 and 255 mean "no limit". A large number of hops is capped below that.
        let depth = match u8::try_from(depth) {
            Ok(depth) => depth.min(UNLIMITED_FOR_STRANGER - 1),
            Err(_) if depth < 0 => UNLIMITED,
            Err(_) => UNLIMITED_FOR_STRANGER - 1,
        };
        let mut id = QueryId([0; 16]);
        // The id is random, because it must be unique and hard to guess: a node ignores a query whose id it
        // knows already.
        self.rng.fill_bytes(&mut id.0);
        let timeout = timeout.unwrap_or(self.query_timeout);
        let what = match what {
            QueryKind::CallBack { target, token, .. } => {
                let candidates = self.parts.reach.candidates(&self.description.addresses);
                let record =
                    self.with_parts(|parts, cx| parts.membership.call_back_record(cx, &candidates));
                QueryKind::SignedCallBack { target, token, record: Box::new(record) }
            }
            what => what,
        };
        let question = Question { what, depth, own };
        self.with_parts(|parts, cx| {
            // Strangers that flood this node or answer late would delay the query.
            let peers = askable(cx.links, &parts.membership);
            let neighbours = peers.filter(|peer| cx.budgets.may_be_asked(cx.now, peer.id));
            parts.queries.ask(cx.now, id, question, timeout, neighbours, cx.out);
        });
        id
    }

    /// Answers a query with what the shell has found. `calls_back` is set if this node calls the asking node back.
    pub(super) fn answer(&mut self, query: QueryId, files: &[SharedFile], calls_back: bool) {
        let files = files.chunks(MAX_FILES).map(|part| AnswerBody::Files(part.to_vec()));
        let mut answers = self.description.answer(query, files);
        if calls_back {
            let mut here = self.description.answer(query, [AnswerBody::Here]);
            let mut candidates = self.parts.reach.candidates(&self.description.addresses);
            candidates.extend(self.parts.reach.relay_addresses());
            for answer in &mut here {
                // The asking node dials the candidates. The addresses are for its user.
                answer.addresses.splice(0..0, candidates.iter().cloned());
                answer.addresses.truncate(MAX_ADDRESSES);
            }
            answers.extend(here);
        }
        self.with_parts(|parts, cx| {
            parts.queries.answer(cx.now, query, answers, cx.budgets, cx.out);
        });
    }

    pub(super) fn receive_query(&mut self, from: NodeId, query: Query) {
        let Self { description, links, budgets, parts, now, out, .. } = self;
        let membership = &parts.membership;
        let neighbours = askable(links, membership);
        let is_of_stranger = membership.is_member() && budgets.standing(from) == Standing::Stranger;
        let is_for_us = match &query.what {
            QueryKind::SignedCallBack { target, .. } => *target == description.id,
            _ => false,
        };
        let may_check = !is_for_us || budgets.take(now.monotonic, from, Work::Check, 1);
        let known = |query: &Query| match &query.what {
            // Checked once for each query, and only by its target.
            QueryKind::SignedCallBack { record, .. }
                if is_for_us && !(may_check && membership.is_signed(now.unix, record)) =>
            {
                Some(Vec::new())
            }
            _ => description.answers(links, query),
        };
        let link = AskingLink { peer: from, is_of_stranger, budgets };
        parts.queries.receive(now.monotonic, link, query, neighbours, known, out);
    }
}

/// Returns all peers, each with whether it is a stranger to this node.
fn askable<'a>(
    links: &'a BTreeMap<NodeId, Peer>,
    membership: &'a Membership,
) -> impl Iterator<Item = AskedPeer> {
    let is_member = membership.is_member();
    links.iter().map(move |(id, peer)| {
        let is_stranger = standing_of(peer, membership) == Standing::Stranger;
        AskedPeer { id: *id, is_stranger: is_member && is_stranger }
    })
}
