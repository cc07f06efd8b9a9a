//! Costs of queries and answers, as they are charged to the links that they come over.

use crate::frame::query::{AnswerBody, QueryAnswer, QueryKind, UNLIMITED};
use crate::id::NodeId;
use crate::overlay::budgets::{Budgets, Work};
use crate::time::Instant;

use super::MIN_ANSWERS;

/// Charges a link for a query that is passed on. Returns whether its budgets allow that. A query without the mark of a
/// member may be a stranger's, and leaves half of the budgets to others.
pub(super) fn may_pass(
    now: Instant,
    (from, budgets): (NodeId, &mut Budgets),
    depth: u8,
    what: &QueryKind,
) -> bool {
    let is_of_member = depth == UNLIMITED;
    let mut is_left = |work| is_of_member || budgets.has_reserve(now, from, work);
    let may_begin = is_left(Work::Query) && is_left(Work::Answer);
    if !may_begin || !budgets.may_begin(now, from, Work::Answer, MIN_ANSWERS) {
        budgets.count(Work::Query);
        return false;
    }
    budgets.take(now, from, Work::Query, of_question(what))
}

/// Returns the cost of passing on a question: one, and one for each 256 bytes of addresses, as a question with many of
/// them is as long as a hundred others.
fn of_question(what: &QueryKind) -> usize {
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
