//! An application frame on its way into the outbox.

use bytes::Bytes;

/// What stands before a frame's content, and the content.
pub(crate) struct Parcel<'a> {
    /// The header and the fields before the content.
    pub(crate) head: &'a [u8],
    /// The content.
    pub(crate) body: &'a [u8],
    /// The same content, where it can be shared.
    pub(crate) shared: Option<&'a Bytes>,
}

impl Parcel<'_> {
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}
