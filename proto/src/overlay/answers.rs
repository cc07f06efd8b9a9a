//! Answers to queries that the overlay gives by itself, from what it knows of its links.

use super::Overlay;
use super::seam::Output;
use crate::event::{Direction, Neighbour, NodeInfo, Peer};
use crate::frame::query::{Answer, AnswerBody, MAX_NEIGHBOURS, QueryId, What};
use crate::id::NodeId;
use crate::sample;

impl Overlay {
    /// Describes this node as a discovery shows it.
    #[must_use]
    pub fn info(&self) -> NodeInfo {
        let side = |direction| {
            let links = self.links.values().filter(move |peer| peer.direction() == direction);
            let shown = |peer: &Peer| Neighbour { id: peer.id(), address: peer.address().clone() };
            links.map(shown).collect()
        };
        NodeInfo {
            id: self.me,
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            outbound: side(Direction::Outbound),
            inbound: side(Direction::Inbound),
        }
    }

    /// Answers the look-ups among the outputs that the overlay itself can answer. The others stay.
    pub(super) fn answer_what_we_know(&mut self) {
        let outputs = std::mem::take(&mut self.outbox);
        for output in outputs {
            match output {
                Output::Lookup { query, what: What::Discover, .. } => {
                    let info = self.info();
                    let bodies = neighbour_parts(info.outbound, info.inbound);
                    self.answer(query, bodies);
                }
                Output::Lookup { query, what: What::FindNode(id), .. } => {
                    self.answer_where(query, id);
                }
                Output::Lookup { query, what: What::Sample { salt, bits }, .. } => {
                    let here = sample::contains(&salt, bits, self.me);
                    self.answer(query, here.then_some(AnswerBody::Here).into_iter().collect());
                }
                Output::Lookup { query, what: What::CallBack { target, .. }, .. }
                    if target != self.me =>
                {
                    self.answer(query, Vec::new());
                }
                other => self.outbox.push_back(other),
            }
        }
    }

    /// Answers a query with one answer for each of `bodies`.
    pub(super) fn answer(&mut self, id: QueryId, bodies: Vec<AnswerBody>) {
        let (node, name, addresses) = (self.me, self.name.clone(), self.addresses.clone());
        let answer =
            |body| Answer { id, node, name: name.clone(), addresses: addresses.clone(), body };
        let answers = bodies.into_iter().map(answer).collect();
        self.queries.answer(id, answers, &mut self.outbox);
    }

    /// Answers a query for the node `wanted`, if that is this node or is linked to it.
    fn answer_where(&mut self, id: QueryId, wanted: NodeId) {
        if wanted == self.me {
            self.answer(id, vec![AnswerBody::Here]);
            return;
        }
        let answers = self.links.get(&wanted).map(|peer| Answer {
            id,
            node: wanted,
            name: peer.name().to_owned(),
            addresses: vec![peer.address().clone()],
            body: AnswerBody::Here,
        });
        self.queries.answer(id, answers.into_iter().collect(), &mut self.outbox);
    }
}

/// Splits neighbours into as many answers as they need, at least one.
pub(super) fn neighbour_parts(
    outbound: Vec<Neighbour>,
    inbound: Vec<Neighbour>,
) -> Vec<AnswerBody> {
    let mut outbound = outbound.chunks(MAX_NEIGHBOURS).map(<[_]>::to_vec);
    let mut inbound = inbound.chunks(MAX_NEIGHBOURS).map(<[_]>::to_vec);
    let mut parts = Vec::new();
    loop {
        match (outbound.next(), inbound.next()) {
            (None, None) if !parts.is_empty() => return parts,
            (out, inn) => {
                parts
                    .push(AnswerBody::Neighbours(out.unwrap_or_default(), inn.unwrap_or_default()));
            }
        }
    }
}
