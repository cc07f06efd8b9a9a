//! An honest node in a process of its own, so that its memory can be measured apart from that of other nodes and of
//! attackers.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use peerkit::{Config, Node, NodeId};

use crate::attacker::honest_address;

/// Environment variable with the address of the node through which the measured node joins.
const JOIN_VARIABLE: &str = "PEERKIT_TEST_JOIN";

/// Number of the measured node's address. The other honest nodes have lower ones.
const ADDRESS: usize = 90;

/// Start of the line in which the measured node names its identity and address.
const PREFIX: &str = "measured node: ";

/// The measured node, as its parent process sees it. It stops when this value is dropped.
pub(crate) struct MeasuredNode {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    process: Child,
    /// Kept open, so that the process can write to it until it ends.
    _output: BufReader<ChildStdout>,
    /// Resident memory before the attack, in KiB.
    before: u64,
}

impl MeasuredNode {
    /// Starts the node, which joins through the node at `through`. Blocks until it has joined.
    pub(crate) fn start(through: SocketAddr) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut process = Command::new(program)
            .args(["--exact", "measured::run_the_measured_node", "--ignored", "--nocapture"])
            .env(JOIN_VARIABLE, through.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let line = output.by_ref().lines().map_while(Result::ok).find_map(|line| {
            let (_, names) = line.split_once(PREFIX)?;
            let (id, address) = names.split_once(' ')?;
            Some((id.parse().unwrap(), address.parse().unwrap()))
        });
        let (id, address) = line.expect("the measured node joins");
        Self { id, address, process, _output: output, before: 0 }
    }

    /// Begins the measurement.
    pub(crate) fn reset_peak(&mut self) {
        let process = self.process.id();
        std::fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
        self.before = self.status("VmRSS:");
    }

    /// Returns by how much the peak of resident memory has grown since [`reset_peak`](Self::reset_peak), in KiB.
    pub(crate) fn peak_growth(&self) -> u64 {
        self.status("VmHWM:").saturating_sub(self.before)
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("the measured node runs");
        let line = status.lines().find(|line| line.starts_with(name)).expect("it has not ended");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for MeasuredNode {
    fn drop(&mut self) {
        // The node stops at the end of its standard input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Runs the measured node. [`MeasuredNode::start`] runs this as a program.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "it is the program of another process"]
async fn run_the_measured_node() {
    let Ok(through) = std::env::var(JOIN_VARIABLE) else { return };
    let mut config = Config::default();
    config.limit_loopback = true;
    let builder = Node::builder().name("measured").listen(honest_address(ADDRESS)).config(config);
    let node = builder.spawn().await.unwrap();
    node.join(through.parse::<SocketAddr>().unwrap()).await.unwrap();
    println!("{PREFIX}{} {}", node.id(), node.listening()[0]);
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    end.await.unwrap().unwrap();
    node.shutdown().await;
}
