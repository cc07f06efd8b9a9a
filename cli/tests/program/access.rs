//! Access to shares: open, for some nodes, or with a ticket.

use std::fs;

use crate::harness::{Share, address, get, get_command, peerkit, run, text, ticket};

#[test]
fn a_ticket_share_without_its_ticket_looks_like_a_missing_one() {
    let home = tempfile::tempdir().unwrap();
    let secret = home.path().join("secret.txt");
    fs::write(&secret, "psst").unwrap();
    let share = Share::start(home.path(), &["--ticket", secret.to_str().unwrap()]);
    let shared = share.shared();
    let from = address(&shared).to_string();
    let error = |hash: &str| {
        let got = get(home.path(), &[hash, "--from", &from]);
        assert_eq!(got.status.code(), Some(1));
        text(&got.stderr).replace(hash, "HASH")
    };
    let hash = shared["hash"].as_str().unwrap();
    assert_eq!(
        error(hash),
        error(&"22".repeat(32)),
        "the error is the same as for a hash that is not shared"
    );
    let got = get(home.path(), &[&ticket(&shared)]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
    assert_eq!(fs::read_to_string(home.path().join("other/secret.txt")).unwrap(), "psst");
}

#[test]
fn a_share_for_one_node_is_refused_to_others() {
    let home = tempfile::tempdir().unwrap();
    let letter = home.path().join("letter.txt");
    fs::write(&letter, "dear you").unwrap();
    let mut id = peerkit(home.path());
    id.env("XDG_DATA_HOME", home.path().join("other-data")).arg("id");
    let id = text(&run(id, "").stdout).trim().to_owned();
    let share = Share::start(home.path(), &["--to", &id, letter.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let mut stranger = get_command(home.path(), &[&ticket]);
    stranger.env("XDG_DATA_HOME", home.path().join("strangers-data"));
    assert_eq!(run(stranger, "").status.code(), Some(1));
    let got = get(home.path(), &[&ticket]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
}
