//! Uploads as text for people.

use peerkit::{Upload, UploadStatus, UploadTotals};

use crate::text::{self, Paint, count, plain};

/// Returns an upload to `peer` and its progress, on one line.
pub(crate) fn line(paint: Paint, peer: &str, upload: &UploadStatus) -> String {
    let name = paint.strong(&plain(upload.file.name.as_str()));
    let mut text = format!(
        "{name} to {}  {} of {} sent",
        paint.name(peer),
        text::size(upload.sent),
        text::size(upload.file.size),
    );
    if upload.rate > 0 {
        text.push_str(&format!("  {}/s", text::size(upload.rate)));
    }
    text
}

/// Returns the name and size of a completed upload. If other sources sent a part of the file, also
/// returns how many bytes this node sent.
pub(crate) fn completed(paint: Paint, upload: &Upload) -> String {
    let size = text::size(upload.size);
    let sent = if upload.bytes < upload.size {
        format!(", of which this node sent {}", text::size(upload.bytes))
    } else {
        String::new()
    };
    format!("{}, {}", plain(&upload.name), paint.faint(&format!("{size}{sent}")))
}

/// Returns a sentence with the totals of all uploads.
pub(crate) fn total(totals: &UploadTotals) -> String {
    if totals.peers == 0 {
        return "No node has fetched anything from this one.".to_owned();
    }
    let completed = match totals.completed {
        0 => "no fetch was".to_owned(),
        1 => "1 fetch was".to_owned(),
        all => format!("{all} fetches were"),
    };
    let (size, nodes) = (text::size(totals.bytes), count(totals.peers, "node"));
    format!("Sent {size} to {nodes}; {completed} completed.")
}

#[cfg(test)]
mod tests {
    use peerkit::Hash;

    use super::*;

    #[test]
    fn uploads_are_described() {
        let upload = |bytes| Upload { hash: Hash::of(b""), name: "a\n".into(), bytes, size: 2048 };
        let described = |bytes| completed(Paint::none(), &upload(bytes));
        assert_eq!(described(2048), "a\\n, 2.0 KiB");
        assert_eq!(described(1024), "a\\n, 2.0 KiB, of which this node sent 1.0 KiB");
        let mut totals = UploadTotals::default();
        assert_eq!(total(&totals), "No node has fetched anything from this one.");
        (totals.bytes, totals.peers) = (2048, 2);
        assert_eq!(total(&totals), "Sent 2.0 KiB to 2 nodes; no fetch was completed.");
        (totals.peers, totals.completed) = (1, 1);
        assert_eq!(total(&totals), "Sent 2.0 KiB to 1 node; 1 fetch was completed.");
        totals.completed = 2;
        assert_eq!(total(&totals), "Sent 2.0 KiB to 1 node; 2 fetches were completed.");
    }
}
