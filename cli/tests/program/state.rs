//! The state folder: its permissions, and damaged files in it.

use std::fs;

use crate::harness::{Program, peerkit, run};

#[test]
fn a_damaged_state_file_is_an_error_and_repair_moves_it_aside() {
    let home = tempfile::tempdir().unwrap();
    let node = Program::start(home.path(), "ann", &[]);
    let id = node.id.clone();
    node.exit();
    let file = home.path().join("ann/state.redb");
    let mut bytes = fs::read(&file).unwrap();
    let len = bytes.len();
    bytes[64..len].fill(0xa5);
    fs::write(&file, &bytes).unwrap();

    let mut command = peerkit(home.path());
    command.args(["run", "--listen", "127.0.0.1:0", "--state"]).arg(home.path().join("ann"));
    let output = run(command, "exit\n");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["state.redb is damaged", "--repair", "but not its identity"] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
    assert_eq!(
        fs::read(&file).unwrap().len(),
        len,
        "the damaged file was changed without --repair"
    );

    let mut command = peerkit(home.path());
    command.args(["run", "--json", "--repair", "--listen", "127.0.0.1:0", "--state"]);
    let output = run(
        {
            command.arg(home.path().join("ann"));
            command
        },
        "exit\n",
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(error.contains("is now") && error.contains("state.redb.damaged"), "{error}");
    assert!(String::from_utf8(output.stdout).unwrap().contains(&id), "the identity is kept");
    assert!(home.path().join("ann/state.redb.damaged").exists());
    // If there is no damage, the option changes nothing.
    Program::start(home.path(), "ann", &["--repair"]).exit();
    assert!(!home.path().join("ann/state.redb.damaged-2").exists());
}

#[cfg(unix)]
#[test]
fn only_the_user_can_read_the_state_folder() {
    use std::os::unix::fs::PermissionsExt;

    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("ann");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    Program::start(home.path(), "ann", &[]).exit();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let check = || {
        assert_eq!(mode(&state), 0o700);
        for entry in fs::read_dir(&state).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    };
    check();
    // Permissions that an earlier version gave are corrected.
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(state.join("state.redb"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(state.join("history"), "#V2\nmsg hello\n").unwrap();
    fs::set_permissions(state.join("history"), fs::Permissions::from_mode(0o644)).unwrap();
    Program::start(home.path(), "ann", &[]).exit();
    check();
}
