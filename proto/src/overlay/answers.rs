//! The answers that the overlay can give to queries without the shell.

use std::collections::BTreeMap;

use crate::address::Address;
use crate::event::{Direction, Neighbour, NodeInfo, Peer};
use crate::frame::query::{AnswerBody, MAX_NEIGHBOURS, Query, QueryAnswer, QueryId, QueryKind};
use crate::id::NodeId;
use crate::sample;

/// The data of this node that others see.
#[derive(Debug)]
pub(super) struct SelfDescription {
    pub(super) id: NodeId,
    pub(super) name: String,
    /// The node's addresses, best first.
    pub(super) addresses: Vec<Address>,
}

impl SelfDescription {
    /// Returns the description of this node and its links that a discovery shows.
    pub(super) fn info(&self, links: &BTreeMap<NodeId, Peer>) -> NodeInfo {
        let side = |direction| {
            let links = links.values().filter(move |peer| peer.direction() == direction);
            let shown = |peer: &Peer| Neighbour { id: peer.id(), address: peer.address().clone() };
            links.map(shown).collect()
        };
        NodeInfo {
            id: self.id,
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            outbound: side(Direction::Outbound),
            inbound: side(Direction::Inbound),
        }
    }

    /// Returns the answers to a query, or `None` if the shell has to look them up.
    pub(super) fn answers(
        &self,
        links: &BTreeMap<NodeId, Peer>,
        query: &Query,
    ) -> Option<Vec<QueryAnswer>> {
        let here = |is_here: bool| self.answer(query.id, is_here.then_some(AnswerBody::Here));
        match &query.what {
            QueryKind::Discover => {
                let info = self.info(links);
                Some(self.answer(query.id, neighbour_parts(info.outbound, info.inbound)))
            }
            QueryKind::FindNode(wanted) if *wanted == self.id => Some(here(true)),
            QueryKind::FindNode(wanted) => {
                let answer = |peer: &Peer| QueryAnswer {
                    id: query.id,
                    node: *wanted,
                    name: peer.name().to_owned(),
                    addresses: vec![peer.address().clone()],
                    body: AnswerBody::Here,
                };
                Some(links.get(wanted).map(answer).into_iter().collect())
            }
            QueryKind::Sample { salt, bits } => Some(here(sample::contains(salt, *bits, self.id))),
            // Any node could put the addresses of a third party into such a query.
            QueryKind::CallBack { .. } => Some(Vec::new()),
            QueryKind::SignedCallBack { target, .. } if *target != self.id => Some(Vec::new()),
            _ => None,
        }
    }

    /// Returns an answer of this node for each of `bodies`.
    pub(super) fn answer(
        &self,
        id: QueryId,
        bodies: impl IntoIterator<Item = AnswerBody>,
    ) -> Vec<QueryAnswer> {
        let answer = |body| QueryAnswer {
            id,
            node: self.id,
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            body,
        };
        bodies.into_iter().map(answer).collect()
    }
}

/// Splits lists of neighbours into answers that are within the limit of a frame. Returns at least one.
pub(super) fn neighbour_parts(
    outbound: Vec<Neighbour>,
    inbound: Vec<Neighbour>,
) -> Vec<AnswerBody> {
    let mut outbound = outbound.chunks(MAX_NEIGHBOURS).map(<[_]>::to_vec);
    let mut inbound = inbound.chunks(MAX_NEIGHBOURS).map(<[_]>::to_vec);
    let mut parts = Vec::new();
    loop {
        match (outbound.next(), inbound.next()) {
            // A node without neighbours also gives an answer, as a discovery finds nodes by their answers.
            (None, None) if !parts.is_empty() => return parts,
            (out, inn) => {
                parts
                    .push(AnswerBody::Neighbours(out.unwrap_or_default(), inn.unwrap_or_default()));
            }
        }
    }
}
