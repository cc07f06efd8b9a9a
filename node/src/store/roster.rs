//! Members and revocations of networks whose owners invite, in the store.

use peerkit_proto::codec::{Reader, Writer};
use peerkit_proto::id::NodeId;
use peerkit_proto::invitation::{MembershipProof, Revocation};
use peerkit_proto::overlay::members::RosterChange;

use super::tables::{MEMBERS, REVOCATIONS, Row};
use super::{Store, StoreError};

impl Store {
    /// Returns the members and the revocations of a network.
    pub(crate) fn roster(
        &self,
        network: &str,
    ) -> Result<(Vec<MembershipProof>, Vec<Revocation>), StoreError> {
        let prefix = prefix(network);
        let is_of_network = |key: &[u8]| key.starts_with(&prefix);
        // A row of a later version that can't be read is left out: its node is checked like a new one.
        let members = self.rows(MEMBERS)?.into_iter().filter(|(key, _)| is_of_network(key));
        let members = members
            .filter_map(|(_, row)| MembershipProof::decode(&mut Reader::new(row.into())).ok());
        let members = members.collect();
        let revoked = self.rows(REVOCATIONS)?.into_iter().filter(|(key, _)| is_of_network(key));
        let revoked =
            revoked.filter_map(|(_, row)| Revocation::decode(&mut Reader::new(row.into())).ok());
        Ok((members, revoked.collect()))
    }

    /// Returns whether there are members or revocations of a network, also such that can't be read.
    pub(crate) fn has_roster(&self, network: &str) -> Result<bool, StoreError> {
        let prefix = prefix(network);
        let has = |rows: Vec<Row>| rows.iter().any(|(key, _)| key.starts_with(&prefix));
        Ok(has(self.rows(MEMBERS)?) || has(self.rows(REVOCATIONS)?))
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
