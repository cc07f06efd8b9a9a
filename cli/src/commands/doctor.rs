//! `doctor`: finds the reason why a node can't be reached.
//!
//! With an address, the way to the node there is checked step by step: see [`way`]. Without one, this node is
//! checked: see [`own`]. Neither changes the links of the running node.

use std::fmt::Write as _;

use clap::Args;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome, joined};
use crate::address::{check_address, join_ports};
use crate::progress::ProgressSink;
use crate::text::{Paint, plain};
use crate::usage;

mod own;
mod reach;
mod visitor;
mod way;

/// Find out why a node can't be reached
///
/// With ADDR, each step of the way to the node there is checked: its host name, port, encryption, identity,
/// network, secret, version, limits and clock. For this a temporary node links to it for a moment. Without
/// ADDR, this node is checked. The links of this node do not change.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct DoctorArgs {
    /// The address of a node, or the name of a known node. Without it, this node is checked
    #[arg(value_name = "ADDR", num_args = 0..=2)]
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "joined::serialize",
        deserialize_with = "optional"
    )]
    #[schema(value_type = Option<String>)]
    address: Vec<String>,
}

/// The result of an examination.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Diagnosis {
    /// One sentence: what is wrong and what to do about it, or that nothing is wrong.
    verdict: String,
    /// The checks, in their order. Checks that could not be made because another one failed are left out.
    checks: Vec<Check>,
}

/// A check.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Check {
    name: CheckName,
    /// False if this check has found what is wrong.
    ok: bool,
    /// The finding.
    detail: String,
    /// What to do about it, and on which machine.
    remedy: Option<String>,
}

/// The name of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CheckName {
    /// The name stands for addresses.
    Name,
    /// A program accepts connections at the address.
    Port,
    /// That program speaks TLS as nodes do.
    Tls,
    /// The node there is not this node itself.
    OwnAddress,
    /// The node there is the expected one.
    Identity,
    /// The node there completes the exchange of Hellos.
    Hello,
    /// Both nodes speak the same version of the protocol.
    Version,
    /// Both nodes belong to the same network.
    Network,
    /// Both nodes have the same secret.
    Secret,
    /// The node has room for another link.
    Limits,
    /// The clocks agree.
    Clock,
    /// A node runs here.
    Running,
    /// This node accepts connections.
    Listening,
    /// Other machines can dial an address of this node.
    Addresses,
    /// Peers answer this node over UDP.
    Udp,
    /// The kind of the NAT in front of this node.
    Nat,
    /// The router forwards a port to this node.
    Mapping,
    /// Links of this node that other nodes relay.
    Relay,
    /// This node is a member of its network.
    Membership,
    /// The last links that could not be made.
    Failures,
}

impl Check {
    fn passed(name: CheckName, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into(), remedy: None }
    }

    fn failed(name: CheckName, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, ok: false, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// Adds advice to a check that has not failed.
    fn with_advice(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

impl CheckName {
    /// Returns the name for people.
    fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Port => "port",
            Self::Tls => "encryption",
            Self::OwnAddress => "own address",
            Self::Identity => "identity",
            Self::Hello => "greeting",
            Self::Version => "version",
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Limits => "limits",
            Self::Clock => "clock",
            Self::Running => "running",
            Self::Listening => "listening",
            Self::Addresses => "addresses",
            Self::Udp => "udp",
            Self::Nat => "nat",
            Self::Mapping => "mapping",
            Self::Relay => "relay",
            Self::Membership => "membership",
            Self::Failures => "failures",
        }
    }
}

impl Diagnosis {
    /// Makes a diagnosis of checks. The first failed check is the verdict, otherwise `all_well` is.
    fn new(checks: Vec<Check>, all_well: impl Into<String>) -> Self {
        let verdict = match checks.iter().find(|check| !check.ok) {
            Some(Check { detail, remedy: Some(remedy), .. }) => format!("{detail}: {remedy}"),
            Some(Check { detail, .. }) => detail.clone(),
            None => all_well.into(),
        };
        Self { verdict, checks }
    }
}

impl NodeCommand for DoctorArgs {
    const NAME: &'static str = "doctor";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/diagnoses"));
    const WORKS_ALONE: bool = true;
    type Outcome = Diagnosis;

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.address = join_ports(std::mem::take(&mut self.address));
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Diagnosis> {
        let session = context.session;
        match self.address()? {
            Some(address) => way::examine(Some(session), &address, &context.progress).await,
            None => own::examine(session, &context.progress).await,
        }
    }

    async fn run_alone(self, progress: ProgressSink) -> anyhow::Result<Diagnosis> {
        match self.address()? {
            Some(address) => way::examine(None, &address, &progress).await,
            None => Ok(Diagnosis::new(
                vec![Check::failed(
                    CheckName::Running,
                    "no running node with an API uses the state folder of this command",
                    "on this machine, start one with `peerkit run`, or name its folder with --state DIR",
                )],
                "",
            )),
        }
    }
}

impl DoctorArgs {
    /// Returns the address, if there is one.
    fn address(&self) -> anyhow::Result<Option<String>> {
        match &self.address[..] {
            [] => Ok(None),
            [address] => {
                check_address(address).map_err(usage)?;
                Ok(Some(address.clone()))
            }
            _ => Err(usage("doctor takes one address")),
        }
    }
}

impl Outcome for Diagnosis {
    fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let mark = if check.ok { paint.good("✓") } else { paint.bad("✗") };
            let name = paint.faint(&format!("{:11}", check.name.label()));
            let _ = writeln!(text, "{mark} {name} {}", plain(&check.detail));
            if let Some(advice) = check.remedy.as_ref().filter(|_| check.ok) {
                let _ = writeln!(text, "  {:11} {}", "", paint.faint(&plain(advice)));
            }
        }
        let verdict = paint.strong(&plain(&self.verdict));
        let _ = write!(text, "Verdict: {verdict}");
        text
    }

    fn is_complete(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

/// Reads an address that may be missing.
fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failed_check_is_the_verdict() {
        let well = || Check::passed(CheckName::Port, "host:1 answers");
        assert_eq!(Diagnosis::new(vec![well()], "all is well").verdict, "all is well");
        let network = Check::failed(CheckName::Network, "it is elsewhere", "move it");
        let clock = Check::failed(CheckName::Clock, "it is late", "wait");
        let diagnosis = Diagnosis::new(vec![well(), network, clock], "all is well");
        assert_eq!(diagnosis.verdict, "it is elsewhere: move it");
        assert!(!diagnosis.is_complete());
        let text = diagnosis.text(Paint::none());
        assert!(text.contains("✓ port        host:1 answers\n✗ network     it is elsewhere\n"));
        assert!(text.ends_with("Verdict: it is elsewhere: move it"));
    }

    #[test]
    fn the_address_may_be_missing() {
        let read = |json: &str| serde_json::from_str::<DoctorArgs>(json).unwrap().address;
        assert_eq!(read("{}"), Vec::<String>::new());
        assert_eq!(read("{\"address\":null}"), Vec::<String>::new());
        assert_eq!(read("{\"address\":\"a:1\"}"), ["a:1"]);
    }
}
