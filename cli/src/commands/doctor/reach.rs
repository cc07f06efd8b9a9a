//! The checks of how others reach this node through a router: UDP, NAT, port mapping and relays.

use peerkit::{Nat, Reachability, Status};

use super::{Check, CheckName};
use crate::text::count;

/// Returns the checks. `port` is the one on which this node listens.
pub(super) fn checks(status: &Status, port: Option<u16>) -> Vec<Check> {
    vec![udp(status), nat(status), mapping(status, port), relay(status)]
}

fn udp(status: &Status) -> Check {
    let name = CheckName::Udp;
    match status.nat {
        Nat::NoUdp => Check::passed(name, "this node does not use UDP, so it can't punch holes")
            .with_advice(
                "on this machine, start it without --no-udp, at a port that is free for UDP",
            ),
        Nat::UdpBlocked => Check::failed(
            name,
            "no peer that was asked over UDP has answered, although they answer over TCP: UDP is blocked",
            "on the firewall or router of this machine, let UDP out: until then, links to nodes behind NATs \
             run through relays",
        ),
        Nat::Dialled => Check::passed(name, "no peer was asked, as nodes dial this one"),
        Nat::Unknown if status.seen_at.is_empty() => {
            Check::passed(name, "no peer on the internet was asked yet")
        }
        _ => {
            let seen: Vec<String> = status.seen_at.iter().map(ToString::to_string).collect();
            Check::passed(
                name,
                format!("peers answer, and see this node at {}", seen.join(" and ")),
            )
        }
    }
}

fn nat(status: &Status) -> Check {
    let name = CheckName::Nat;
    let is_mapped = status.reachability == Reachability::Mapped;
    match status.nat {
        Nat::Dialled => Check::passed(name, "a node on the internet has dialled this one"),
        Nat::EndpointIndependent => Check::passed(
            name,
            "two peers see this node at the same address (endpoint-independent mapping): holes can be punched",
        ),
        Nat::EndpointDependent => {
            let check = Check::passed(
                name,
                "each peer sees this node at another port (endpoint-dependent mapping, a symmetric NAT): holes \
                 can't be punched, so nodes that can't be dialled either are reached through relays",
            );
            let advice =
                "on this machine, start the node with --map, or have the router forward its port";
            if is_mapped { check } else { check.with_advice(advice) }
        }
        _ => Check::passed(
            name,
            "not known: that takes two peers on the internet that answer over UDP",
        ),
    }
}

fn mapping(status: &Status, port: Option<u16>) -> Check {
    let name = CheckName::Mapping;
    let by_hand = match port {
        Some(port) => format!("have it forward port {port} by hand"),
        None => "have it forward a port by hand".to_owned(),
    };
    let Some(mapping) = &status.mapping else {
        let check = Check::passed(name, "the router was not asked to forward a port");
        return match status.reachability {
            Reachability::Direct => check,
            _ => check.with_advice("on this machine, --map asks it to"),
        };
    };
    match (mapping.protocol.is_some(), mapping.announced) {
        (true, true) => {
            let seconds = mapping.seconds_left.unwrap_or_default();
            Check::passed(name, format!("{}, for {seconds} s unless it is renewed", mapping.why))
        }
        (true, false) => Check::failed(
            name,
            mapping.why.clone(),
            format!(
                "on the other router, forward the port to this router, or else {by_hand} there"
            ),
        ),
        (false, _) if mapping.is_failed => Check::failed(
            name,
            mapping.why.clone(),
            format!(
                "on the router, switch on UPnP or NAT-PMP, or {by_hand}, and name it with --announce ADDR"
            ),
        ),
        (false, _) => Check::passed(name, mapping.why.clone()),
    }
}

fn relay(status: &Status) -> Check {
    let name = CheckName::Relay;
    let relays = match status.relayed {
        0 => String::new(),
        some => format!("; this node relays {} of others", count(some, "connection")),
    };
    match status.relayed_links {
        0 => Check::passed(name, format!("no link of this node runs through a relay{relays}")),
        links => Check::passed(
            name,
            format!("{} of this node run through relays, which is slower{relays}", count(links, "link")),
        )
        .with_advice("a direct link is tried every 30 s, and works if one of the two routers forwards a port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn status(change: impl FnOnce(&mut Status)) -> Status {
        let node = peerkit::Node::builder().spawn().await.unwrap();
        let mut status = node.status().await;
        node.shutdown().await;
        change(&mut status);
        status
    }

    #[tokio::test]
    async fn each_kind_of_nat_has_its_own_words() {
        for (kind, expected, is_ok) in [
            (Nat::NoUdp, "does not use UDP", true),
            (Nat::UdpBlocked, "UDP is blocked", false),
            (Nat::Dialled, "nodes dial this one", true),
            (Nat::Unknown, "asked yet", true),
        ] {
            let check = udp(&status(|status| status.nat = kind).await);
            assert!(check.detail.contains(expected) && check.ok == is_ok, "{check:?}");
            let has_remedy = matches!(kind, Nat::NoUdp | Nat::UdpBlocked);
            assert_eq!(check.remedy.is_some(), has_remedy, "{check:?}");
        }
        let seen = |status: &mut Status| {
            status.nat = Nat::EndpointIndependent;
            status.seen_at = vec!["192.0.2.7:7117".parse().unwrap()];
        };
        let seen = status(seen).await;
        assert!(udp(&seen).detail.ends_with("see this node at 192.0.2.7:7117"));
        assert!(nat(&seen).detail.contains("holes can be punched"));
        let symmetric = nat(&status(|status| status.nat = Nat::EndpointDependent).await);
        assert!(symmetric.ok && symmetric.remedy.unwrap().contains("--map"));
    }

    #[tokio::test]
    async fn a_router_that_was_not_asked_is_no_fault() {
        let status = status(|status| status.relayed_links = 2).await;
        let checks = checks(&status, Some(7117));
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
        assert!(checks[2].remedy.as_ref().unwrap().contains("--map"));
        assert!(checks[3].detail.starts_with("2 links of this node run through relays"));
    }
}
