//! Members and revocations of networks whose owners invite, in the store.

use peerkit_proto::codec::{Reader, Writer};
use peerkit_proto::id::NodeId;
use peerkit_proto::invitation::{MembershipProof, Revocation};
use peerkit_proto::overlay::members::RosterChange;

use super::tables::{MEMBERS, REVOCATIONS, Row};
use super::{Store, StoreError};

/// The stored members and revocations of a network.
pub(crate) struct StoredRoster {
    pub(crate) members: Vec<MembershipProof>,
    pub(crate) revocations: Vec<Revocation>,
    /// True if there are rows of the network, also such that can't be read.
    pub(crate) has_rows: bool,
}

impl Store {
    /// Returns the members and the revocations of a network.
    pub(crate) fn roster(&self, network: &str) -> Result<StoredRoster, StoreError> {
        let prefix = prefix(network);
        let of_network = |rows: Vec<Row>| -> Vec<Reader> {
            let rows = rows.into_iter().filter(|(key, _)| key.starts_with(&prefix));
            rows.map(|(_, row)| Reader::new(row.into())).collect()
        };
        let members = of_network(self.rows(MEMBERS)?);
        let revoked = of_network(self.rows(REVOCATIONS)?);
        let has_rows = !members.is_empty() || !revoked.is_empty();
        // A row of a later version that can't be read is left out: its node is checked like a new one.
        let members =
            members.into_iter().filter_map(|mut row| MembershipProof::decode(&mut row).ok());
        let revoked = revoked.into_iter().filter_map(|mut row| Revocation::decode(&mut row).ok());
        Ok(StoredRoster { members: members.collect(), revocations: revoked.collect(), has_rows })
    }

    /// Saves changes of the roster of a network, in this order.
    pub(crate) fn save_roster(
        &self,
        network: &str,
        roster: &[RosterChange],
    ) -> Result<(), StoreError> {
        self.change(|changes| {
            for change in roster {
                let mut out = Vec::new();
                match change {
                    RosterChange::Member(proof) => {
                        proof.encode(&mut out);
                        changes.put(MEMBERS, [(key(network, proof.member()), out)])?;
                    }
                    RosterChange::Revoked(revocation) => {
                        revocation.encode(&mut out);
                        changes.put(REVOCATIONS, [(key(network, revocation.revoked), out)])?;
                    }
                    RosterChange::Expired(members, revoked) => {
                        for id in members {
                            changes.remove(MEMBERS, &key(network, *id))?;
                        }
                        for id in revoked {
                            changes.remove(REVOCATIONS, &key(network, *id))?;
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        })
    }
}

/// Returns the start of the keys of a network. No network's is the start of another's.
fn prefix(network: &str) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_str(network);
    out
}

fn key(network: &str, id: NodeId) -> Vec<u8> {
    let mut out = prefix(network);
    out.put_raw(id.as_bytes());
    out
}
