//! A network whose owner invites, with the real program.

use std::fs;

use crate::harness::{PATIENCE, Program, peerkit, run, text};

/// Waits until `node` lists this number of certified members, and returns the list.
fn wait_for_members(node: &mut Program, count: usize) -> Vec<serde_json::Value> {
    let begun = std::time::Instant::now();
    loop {
        let members = node.run("members")["members"].as_array().unwrap().clone();
        if members.iter().filter(|member| member["certified"] == true).count() == count {
            return members;
        }
        assert!(begun.elapsed() < PATIENCE, "{count} members: {members:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn an_owner_invites_lists_and_revokes() {
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("owner.key");
    let founding = ["--owner", key.to_str().unwrap(), "--invite-only", "--network", "club"];
    let mut founder = Program::start_with(home.path(), "founder", &founding);
    let made = founder.run("invite --for 2days --uses 2");
    let link = made["link"].as_str().unwrap().to_owned();
    assert!(link.starts_with("peerkit-invite://") && link.contains("/#"), "{link}");
    let file = home.path().join("invite");
    fs::write(&file, format!("{link}\n")).unwrap();

    let with_file = ["--invite-file", file.to_str().unwrap()];
    let mut ann = Program::start_with(home.path(), "ann", &with_file);
    let mut command = peerkit(home.path());
    command.env("PEERKIT_INVITE", &link);
    let mut bob = Program::start_by(command, home.path(), "bob", &[]);
    let members = wait_for_members(&mut ann, 3);
    let of = |id: &str| members.iter().find(|member| member["id"] == id).unwrap().clone();
    assert_eq!(of(&ann.id)["invited_by"], founder.id.as_str());
    assert_eq!(of(&ann.id)["name"], "ann");
    assert_eq!(of(&bob.id)["invitation"], made["invitation"]);
    assert!(of(&founder.id)["invitation"].is_null());
    assert!(ann.fail("invite").contains("owner"));

    wait_for_members(&mut founder, 3);
    let revoked = founder.run(&format!("revoke {}", &bob.id[..12]));
    assert_eq!(revoked["revoked"], bob.id.as_str());
    let mut end = bob.event("outbound_node_disconnected");
    while !end.to_string().contains("revoked") {
        end = bob.event("outbound_node_disconnected");
    }
    let refused = bob.fail(&format!("connect {}", ann.address));
    assert!(refused.contains("revoked"), "{refused}");
    let error = founder.fail("revoke nobody");
    assert!(error.contains("`members` lists them"), "{error}");

    // A member that names the default network starts in that one, which is open.
    ann.stop();
    Program::start_with(home.path(), "ann", &["--network", "peerkit"]).exit();

    // A stranger who knows the name of the network, and one who pastes half of the invite.
    let mut stranger = Program::start_with(home.path(), "stranger", &["--network", "club"]);
    let refused = stranger.fail(&format!("connect {}", founder.address));
    assert!(refused.contains("invited nodes only"), "{refused}");
    fs::write(&file, &link[..link.len() / 2]).unwrap();
    let mut command = peerkit(home.path());
    command.args(["run", "--invite-file", file.to_str().unwrap()]);
    let output = run(command, "");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("cut short or mistyped") && !error.contains(&link[60..90]), "{error}");
}
