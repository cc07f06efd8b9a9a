//! An upload on one line, a completed one, and the total of all.

use peerkit::{Upload, UploadStatus, UploadTotals};

use crate::text::{self, Paint, count, plain};

/// Tells on a line that goes to `peer` what it fetches from this node and how much of it was sent.
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

/// Tells what a peer has received, and how much of it came from here if that was not all.
pub(crate) fn completed(paint: Paint, upload: &Upload) -> String {
    let size = text::size(upload.size);
    let from_here = match upload.bytes < upload.size {
        true => format!(", {} of it from here", text::size(upload.bytes)),
        false => String::new(),
    };
    format!("{}, {}", plain(&upload.name), paint.faint(&format!("{size}{from_here}")))
}

/// Tells what was sent in all, in a sentence.
pub(crate) fn total(totals: &UploadTotals) -> String {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let nodes = count(number(totals.peers), "node");
    match totals.completed {
        _ if totals.peers == 0 => "Nothing was fetched from here.".to_owned(),
        0 => format!("Sent {} to {nodes}; no fetch was completed.", text::size(totals.bytes)),
        1 => format!("Sent {} to {nodes}; 1 fetch was completed.", text::size(totals.bytes)),
        all => {
            format!("Sent {} to {nodes}; {all} fetches were completed.", text::size(totals.bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use peerkit::Hash;

    use super::*;

    #[test]
    fn what_was_sent_is_told() {
        let upload = |bytes| Upload { hash: Hash::of(b""), name: "a\n".into(), bytes, size: 2048 };
        let told = |bytes| completed(Paint::none(), &upload(bytes));
        assert_eq!(told(2048), "a\\n, 2.0 KiB");
        assert_eq!(told(1024), "a\\n, 2.0 KiB, 1.0 KiB of it from here");
        let mut totals = UploadTotals::default();
        assert_eq!(total(&totals), "Nothing was fetched from here.");
        (totals.bytes, totals.peers) = (2048, 2);
        assert_eq!(total(&totals), "Sent 2.0 KiB to 2 nodes; no fetch was completed.");
        (totals.peers, totals.completed) = (1, 1);
        assert_eq!(total(&totals), "Sent 2.0 KiB to 1 node; 1 fetch was completed.");
        totals.completed = 2;
        assert_eq!(total(&totals), "Sent 2.0 KiB to 1 node; 2 fetches were completed.");
    }
}
