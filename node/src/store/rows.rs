//! The encoding of shares and of hashed files in the rows of their tables.

use bytes::Bytes;
use peerkit_proto::codec::{DecodeError, Reader, Writer};
use peerkit_proto::files::{Access, Secret, SharedFile};

use super::{KnownFile, KnownShare};
use crate::disk::fingerprint::Fingerprint;

impl KnownShare {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        self.shared.encode(&mut out);
        match &self.access {
            Access::Nodes(nodes) => {
                out.put_u8(1);
                out.put_u32(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
                nodes.iter().for_each(|node| out.put_raw(node.as_bytes()));
            }
            Access::Ticket(secret) => {
                out.put_u8(2);
                out.put_raw(secret.as_bytes());
            }
            // An access that is added to the enum later must not be written as open by mistake.
            access => out.put_u8(if *access == Access::Open { 0 } else { u8::MAX }),
        }
        out
    }

    pub(super) fn decode(row: Vec<u8>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::from(row));
        if reader.u8("share version")? != 1 {
            return Err(DecodeError::Invalid("share version"));
        }
        let shared = SharedFile::decode(&mut reader)?;
        let access = match reader.u8("share access")? {
            0 => Access::Open,
            1 => {
                let count = reader.u32("share nodes")?;
                let nodes = (0..count).map(|_| reader.node_id("share node"));
                Access::Nodes(nodes.collect::<Result<_, _>>()?)
            }
            2 => Access::Ticket(Secret::from_bytes(reader.array("share secret")?)),
            _ => return Err(DecodeError::Invalid("share access")),
        };
        reader.finish()?;
        Ok(Self { shared, access })
    }
}

impl KnownFile {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        self.fingerprint.encode(&mut out);
        out.put_raw(self.hash.as_bytes());
        out
    }

    pub(super) fn decode(row: Vec<u8>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::from(row));
        if reader.u8("file version")? != 1 {
            return Err(DecodeError::Invalid("file version"));
        }
        let file = Self {
            fingerprint: Fingerprint::decode(&mut reader)?,
            hash: reader.hash("file hash")?,
        };
        reader.finish()?;
        Ok(file)
    }
}
