//! The record of this node itself, which it signs and sends to others.

use crate::address::Address;
use crate::node_record::{MAX_RECORD_ADDRESSES, NodeRecord};
use crate::overlay::OverlayContext;

use super::Membership;

/// Age at which this node signs its own record again, in milliseconds.
const RESIGN_RECORD_AGE: u64 = 60 * 60 * 1000;

impl Membership {
    pub(in crate::overlay) fn set_addresses(
        &mut self,
        cx: &mut OverlayContext<'_>,
        addresses: &[Address],
    ) {
        self.record = NodeRecord::sign(&self.key, &self.network, cx.unix, addresses);
    }

    /// Returns this node's record, signed within the last hour.
    pub(in crate::overlay) fn current_record(&mut self, cx: &mut OverlayContext<'_>) -> NodeRecord {
        self.resign_record(cx);
        self.record.clone()
    }

    /// Returns this node's record for a request to call it back. It also has `candidates` for hole punching, which
    /// are no addresses that every node can dial.
    pub(in crate::overlay) fn call_back_record(
        &mut self,
        cx: &mut OverlayContext<'_>,
        candidates: &[Address],
    ) -> NodeRecord {
        let record = self.current_record(cx);
        if candidates.is_empty() {
            return record;
        }
        let own = record.addresses.into_iter().take(MAX_RECORD_ADDRESSES / 2);
        let addresses: Vec<_> = own.chain(candidates.iter().cloned()).collect();
        NodeRecord::sign(&self.key, &self.network, cx.unix, &addresses)
    }

    /// Signs this node's record again if it is old.
    pub(super) fn resign_record(&mut self, cx: &mut OverlayContext<'_>) {
        if cx.unix.saturating_sub(self.record.time) > RESIGN_RECORD_AGE {
            let addresses = std::mem::take(&mut self.record.addresses);
            self.set_addresses(cx, &addresses);
        }
    }
}
