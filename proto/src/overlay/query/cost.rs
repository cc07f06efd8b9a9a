//! Costs of queries and answers, as they are charged to the links that they come over.

use crate::frame::query::{AnswerBody, QueryAnswer, QueryKind};

/// Returns the cost of passing on a question: one, and one for each 256 bytes of addresses, as a question with many of
/// them is as long as a hundred others.
pub(super) fn of_question(what: &QueryKind) -> usize {
    let len = match what {
        QueryKind::CallBack { addresses, .. } => {
            addresses.iter().fold(0, |sum: usize, address| sum + address.host.len())
        }
        _ => 0,
    };
    1 + len / 256
}

/// Returns about how many bytes an answer has.
pub(super) fn cost(answer: &QueryAnswer) -> usize {
    64 + 24 * answer.addresses.len() + 64 * weight(&answer.body)
}

/// Returns the size of an answer, in nodes, neighbours and files.
pub(super) fn weight(body: &AnswerBody) -> usize {
    match body {
        AnswerBody::Neighbours(outbound, inbound) => 1 + outbound.len() + inbound.len(),
        AnswerBody::Files(files) => 1 + files.len(),
        AnswerBody::Here => 1,
    }
}
