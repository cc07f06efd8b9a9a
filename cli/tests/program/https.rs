//! The local API over HTTPS.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::api::{command, state};
use crate::harness::{PATIENCE, Program, peerkit, run, text};

/// The name in the certificates of these tests, beside `localhost`.
const NAME: &str = "node.example";

/// A certificate and its key, in files.
struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Makes a self-signed certificate that is valid in these years.
    fn new(folder: &Path, name: &str, years: (i32, i32)) -> Self {
        let mut params = CertificateParams::new(["localhost".to_owned(), NAME.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (chain_file, key_file) =
            (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
        fs::write(&chain_file, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        set_mode(&key_file, 0o600);
        Self { chain: chain_file, key: key_file, der: certificate.der().clone() }
    }

    fn valid(folder: &Path, name: &str) -> Self {
        Self::new(folder, name, (2020, 2120))
    }

    /// Returns the options of a node whose API has this certificate.
    fn options(&self) -> [&str; 4] {
        ["--api-cert", self.chain.to_str().unwrap(), "--api-key", self.key.to_str().unwrap()]
    }
}

fn set_mode(file: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }
    #[cfg(not(unix))]
    let _ = (file, mode);
}

/// Starts a node whose API has a certificate, on all addresses of the machine.
fn start(home: &Path, name: &str, certificate: &Certificate) -> Program {
    let options = [&["--api", "0.0.0.0:0"][..], &certificate.options()].concat();
    Program::start(home, name, &options)
}

/// Returns the content of a node's `api.json`.
fn api_file(home: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(state(home, name).join("api.json")).unwrap()).unwrap()
}

fn port(file: &Value) -> u16 {
    file["url"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// Runs `peerkit COMMAND --node URL`. The only trusted certificate is the one in `trusted`.
fn by_url(home: &Path, url: &str, token: &str, trusted: &Path) -> Output {
    let mut command = peerkit(home);
    command.args(["status", "--node", url]).env("PEERKIT_TOKEN", token);
    command.env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
    run(command, "")
}

fn assert_fails(output: &Output, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Sends a request to the API of a node, and returns a reader of the answer.
fn request(
    file: &Value,
    certificate: &Certificate,
    path: &str,
    headers: &str,
) -> BufReader<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port(file))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(tls, stream);
    let token = file["token"].as_str().unwrap();
    // An answer to HTTP/1.0 has no chunks, and ends with the connection.
    let head = format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n{headers}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    BufReader::new(stream)
}

/// Returns the status of the answer to a request with these headers.
fn status(file: &Value, certificate: &Certificate, headers: &str) -> u16 {
    let mut answer = String::new();
    request(file, certificate, "/api/v1/status", headers).read_line(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn commands_and_other_programs_use_an_api_over_https() {
    let home = tempfile::tempdir().unwrap();
    let certificate = Certificate::valid(home.path(), "own");
    let alice = start(home.path(), "alice", &certificate);
    let file = api_file(home.path(), "alice");
    let port = port(&file);
    assert_eq!(file["url"], format!("https://127.0.0.1:{port}"));
    assert_eq!(alice.started["api"], file["url"]);
    assert_eq!(file["certificate_sha256"].as_str().unwrap().len(), 64);

    let own = command(home.path(), "alice", &["status", "--json"]);
    assert_eq!(own.status.code(), Some(0), "{}", text(&own.stderr));
    let own: Value = serde_json::from_slice(&own.stdout).unwrap();
    assert_eq!(own["status"]["name"], "alice");

    let token = file["token"].as_str().unwrap();
    let url = format!("https://localhost:{port}");
    let by_name = by_url(home.path(), &url, token, &certificate.chain);
    assert_eq!(by_name.status.code(), Some(0), "{}", text(&by_name.stderr));
    let other = Certificate::valid(home.path(), "other");
    let distrusted = by_url(home.path(), &url, token, &other.chain);
    assert_fails(&distrusted, &["does not trust the issuer", "SSL_CERT_FILE"]);
    let by_ip =
        by_url(home.path(), &format!("https://127.0.0.1:{port}"), token, &certificate.chain);
    assert_fails(&by_ip, &["its certificate was refused"]);

    for (headers, expected) in [
        (format!("Host: {NAME}:{port}"), 200),
        (format!("Host: {NAME}"), 200),
        (format!("Host: 127.0.0.1:{port}"), 200),
        (format!("Host: {NAME}\r\nOrigin: https://{NAME}"), 200),
        (format!("Host: {NAME}\r\nOrigin: http://{NAME}"), 403),
        (format!("Host: {NAME}\r\nOrigin: https://{NAME}:1"), 403),
        ("Host: rebound.example".to_owned(), 421),
        ("Host: 127.0.0.1:1".to_owned(), 421),
    ] {
        assert_eq!(status(&file, &certificate, &headers), expected, "{headers}");
    }

    let mut events =
        request(&file, &certificate, "/api/v1/events", &format!("Host: {NAME}")).lines();
    let head_end = events.find(|line| line.as_ref().unwrap().is_empty());
    assert!(head_end.is_some(), "the head of the answer");
    let mut bob = Program::start(home.path(), "bob", &[]);
    bob.run(&format!("connect {}", alice.address));
    bob.run("msg over TLS");
    let messages = |line: std::io::Result<String>| {
        let event: Value = serde_json::from_str(line.ok()?.strip_prefix("data: ")?).ok()?;
        (event["event"] == "node_message").then(|| event["data"].clone())
    };
    assert_eq!(events.by_ref().find_map(messages), Some(json!("over TLS")));
    alice.exit();
    // The node ends the stream properly. Without the end of TLS, reading would fail.
    let rest: Vec<_> = events.map(|line| line.expect("a whole stream")).collect();
    assert!(rest.iter().any(|line| line.contains("node_request_to_stop")), "{rest:?}");
    bob.exit();
}

#[test]
fn the_token_goes_only_to_the_node_with_the_right_certificate() {
    let home = tempfile::tempdir().unwrap();
    let certificate = Certificate::valid(home.path(), "own");
    let other = Certificate::valid(home.path(), "other");
    let alice = start(home.path(), "alice", &certificate);
    let bob = start(home.path(), "bob", &other);
    let (mut file, of_bob) = (api_file(home.path(), "alice"), api_file(home.path(), "bob"));
    // As if another program had taken the port of a node that has crashed.
    file["url"] = of_bob["url"].clone();
    fs::write(state(home.path(), "alice").join("api.json"), file.to_string()).unwrap();
    let refused = command(home.path(), "alice", &["peers"]);
    assert_fails(&refused, &["another certificate", "nothing was sent"]);
    alice.exit();
    bob.exit();
}

#[test]
fn http_and_https_are_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let certificate = Certificate::valid(home.path(), "own");
    let secured = start(home.path(), "alice", &certificate);
    let plain = Program::start(home.path(), "bob", &[]);
    let file = api_file(home.path(), "alice");
    let token = file["token"].as_str().unwrap();
    let to_secured = format!("http://127.0.0.1:{}", port(&file));
    let answer = by_url(home.path(), &to_secured, token, &certificate.chain);
    assert_fails(&answer, &["this API uses HTTPS", file["url"].as_str().unwrap()]);
    let to_plain = format!("https://localhost:{}", port(&api_file(home.path(), "bob")));
    let answer = by_url(home.path(), &to_plain, token, &certificate.chain);
    assert_fails(&answer, &["does not use TLS", "http://"]);
    secured.exit();
    plain.exit();
}

#[test]
fn stalled_handshakes_end_and_do_not_delay_others() {
    let home = tempfile::tempdir().unwrap();
    let certificate = Certificate::valid(home.path(), "own");
    let alice = start(home.path(), "alice", &certificate);
    let file = api_file(home.path(), "alice");
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port(&file))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    };
    let mut silent: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    // The header of a handshake record, and nothing of the record.
    silent.iter().skip(100).for_each(|mut stream| stream.write_all(&[22, 3, 1, 2, 0]).unwrap());
    let begun = std::time::Instant::now();
    let answered = command(home.path(), "alice", &["status"]);
    assert_eq!(answered.status.code(), Some(0), "{}", text(&answered.stderr));
    for stream in &mut silent {
        let mut end = Vec::new();
        // A connection with unread bytes ends with an error.
        if let Err(error) = stream.read_to_end(&mut end) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "the connection has not ended"
            );
        }
        assert!(end.is_empty(), "{end:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    alice.exit();
}

#[test]
fn an_api_that_would_not_be_safe_is_refused_before_the_start() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let own = Certificate::valid(folder, "own");
    let other = Certificate::valid(folder, "other");
    let expired = Certificate::new(folder, "expired", (2001, 2002));
    let future = Certificate::new(folder, "future", (2119, 2120));
    let garbage = folder.join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let empty = folder.join("empty.pem");
    fs::write(&empty, "").unwrap();
    set_mode(&empty, 0o600);
    let open = folder.join("open.pem");
    fs::copy(&own.key, &open).unwrap();
    set_mode(&open, 0o640);
    let missing = folder.join("missing.pem");
    let refused = |options: &[&str], status: i32, parts: &[&str]| {
        let mut command = peerkit(folder);
        command.args(["run", "--headless", "--listen", "127.0.0.1:0", "--state"]);
        command.arg(state(folder, "alice")).args(options);
        let output = run(command, "");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{options:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{options:?}: {part}: {error}");
        }
        assert!(!state(folder, "alice").exists(), "{options:?}: nothing was started");
    };
    for everywhere in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8443"] {
        let parts = ["other machines", "unencrypted", "--api-cert", "--api-key"];
        refused(&["--api", everywhere], 2, &parts);
    }
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    refused(&["--api-cert", &path(&own.chain)], 2, &["--api-key"]);
    refused(&["--api-key", &path(&own.key)], 2, &["--api-cert"]);
    for (chain, key, part) in [
        (&own.chain, &other.key, "does not belong to the certificate"),
        (&expired.chain, &expired.key, "expired"),
        (&future.chain, &future.key, "not valid yet"),
        (&garbage, &own.key, "can't be read"),
        (&empty, &own.key, "has no certificate"),
        (&own.chain, &empty, "has no private key"),
        (&missing, &own.key, "can't read"),
        (&own.chain, &missing, "can't read"),
    ] {
        let options = ["--api-cert", &path(chain), "--api-key", &path(key)];
        refused(&options, 1, &[part, ".pem"]);
    }
    if cfg!(unix) {
        let options = ["--api-cert", &path(&own.chain), "--api-key", &path(&open)];
        refused(&options, 1, &["other users can access", "chmod 600"]);
    }
}
