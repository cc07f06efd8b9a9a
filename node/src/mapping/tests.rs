use std::sync::Mutex;

use peerkit_proto::address::Address;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::lock::lock;
use router::{FakeRouter, Speaks};

mod router;

/// Time for which a test waits. No test needs it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mapper that keeps the ports of a node mapped that listens at 127.0.0.1.
struct Running {
    reports: mpsc::UnboundedReceiver<MappingState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts a mapper whose machine is in the network of a router.
    fn at(router: &FakeRouter) -> Self {
        let gateway = router.ip();
        Self::start(router.ssdp(), "127.0.0.1:7117", move || route::towards(gateway))
    }

    fn start(
        ssdp: SocketAddr,
        listening: &str,
        route: impl Fn() -> Option<Route> + Send + Sync + 'static,
    ) -> Self {
        let surroundings = Surroundings {
            route: Arc::new(route),
            ssdp,
            check_every: Duration::from_millis(200),
            lost_retry: Duration::from_millis(100),
            first_retry: Duration::from_secs(3600),
        };
        let listening = vec![listening.parse().unwrap()];
        let key = Key::from_secret(&[1; 32]);
        let mut mapper =
            Mapper::new(surroundings, NodeClock::start(), listening, true, nonce(&key));
        let (sender, reports) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let report = |state| {
                // A test that knows enough does not receive any more.
                let _ = sender.send(state);
                std::future::ready(())
            };
            mapper.run(&stopped, report).await;
        });
        Self { reports, stop, task }
    }

    /// Waits for a report for which `found` returns a value.
    async fn wait<T>(&mut self, found: impl Fn(&MappingState) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let state = self.reports.recv().await.expect("the mapper runs");
                if let Some(value) = found(&state) {
                    return value;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the report comes")
    }

    async fn mapped(&mut self) -> PortMapping {
        let mapping = |state: &MappingState| match state {
            MappingState::Mapped(mapping) => Some(mapping.clone()),
            _ => None,
        };
        self.wait(mapping).await
    }

    async fn failure(&mut self) -> MappingFailure {
        let failure = |state: &MappingState| match state {
            MappingState::Failed(failure) => Some(failure.clone()),
            _ => None,
        };
        self.wait(failure).await
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

fn texts(mapping: &PortMapping) -> Vec<String> {
    mapping.addresses().iter().map(Address::to_string).collect()
}

#[tokio::test]
async fn each_protocol_maps_both_transports_and_removes_the_mappings_at_the_end() {
    for (speaks, protocol) in [
        (Speaks::Pcp, MappingProtocol::Pcp),
        (Speaks::NatPmp, MappingProtocol::NatPmp),
        (Speaks::Upnp, MappingProtocol::Upnp),
    ] {
        let router = FakeRouter::start(speaks).await;
        let mut node = Running::at(&router);
        let mapping = node.mapped().await;
        assert_eq!(mapping.protocol, protocol);
        assert_eq!(texts(&mapping), ["192.0.2.7:7117", "quic://192.0.2.7:7117"]);
        let expected = ["TCP 7117 -> 127.0.0.1:7117", "UDP 7117 -> 127.0.0.1:7117"];
        assert_eq!(router.mappings(), expected, "{protocol}");
        node.stop().await;
        assert_eq!(router.mappings(), [""; 0], "{protocol}");
    }
}

#[tokio::test]
async fn a_mapping_outlives_its_lifetime() {
    for speaks in [Speaks::Pcp, Speaks::NatPmp] {
        let router = FakeRouter::start(speaks).await;
        lock(&router.state).max_lifetime = Duration::from_secs(2);
        let mut node = Running::at(&router);
        let first = node.mapped().await;
        // Renewed after 200 ms, so this is later than the end of the first lifetime.
        loop {
            let until = node.mapped().await.until;
            assert_eq!(router.mappings().len(), 2, "it was not renewed in time");
            if until > first.until + Duration::from_secs(3) {
                break;
            }
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn a_router_that_has_restarted_maps_the_ports_again() {
    for speaks in [Speaks::Pcp, Speaks::NatPmp, Speaks::Upnp] {
        let router = FakeRouter::start(speaks).await;
        let mut node = Running::at(&router);
        node.mapped().await;
        // So fast that no request was lost.
        lock(&router.state).mappings.clear();
        while router.mappings().len() < 2 {
            node.mapped().await;
        }
        // For longer, and with another address afterwards.
        lock(&router.state).is_silent = true;
        assert_eq!(node.failure().await, MappingFailure::NotOffered);
        {
            let mut state = lock(&router.state);
            state.mappings.clear();
            state.external_ip = Ipv4Addr::new(192, 0, 2, 8);
            state.is_silent = false;
        }
        let mapping = node.mapped().await;
        assert_eq!(texts(&mapping), ["192.0.2.8:7117", "quic://192.0.2.8:7117"]);
        assert_eq!(router.mappings().len(), 2);
        node.stop().await;
    }
}

#[tokio::test]
async fn a_port_that_another_machine_has_is_replaced_by_another() {
    for speaks in [Speaks::Pcp, Speaks::NatPmp, Speaks::Upnp] {
        let router = FakeRouter::start(speaks).await;
        router.occupy("TCP", 7117);
        let mut node = Running::at(&router);
        let mapping = node.mapped().await;
        assert_ne!(mapping.tcp, [7117]);
        assert_eq!((mapping.tcp.len(), mapping.udp.as_slice()), (1, &[7117][..]));
        assert_eq!(node.mapped().await.tcp, mapping.tcp, "a renewal keeps the port");
        node.stop().await;
        assert_eq!(router.mappings(), ["TCP 7117 -> 127.0.0.9:7117"]);
    }
}

#[tokio::test]
async fn a_router_that_knows_no_lifetimes_is_given_none() {
    let router = FakeRouter::start(Speaks::Upnp).await;
    lock(&router.state).only_permanent = true;
    let mut node = Running::at(&router);
    node.mapped().await;
    assert_eq!(router.mappings().len(), 2);
    node.stop().await;
    assert_eq!(router.mappings(), [""; 0]);
}

#[tokio::test]
async fn the_reason_why_no_port_is_mapped_is_reported() {
    let nothing = FakeRouter::start(Speaks::Nothing).await;
    assert_eq!(Running::at(&nothing).failure().await, MappingFailure::NotOffered);
    let refusing = FakeRouter::start(Speaks::Pcp).await;
    lock(&refusing.state).refuses = true;
    let failure = Running::at(&refusing).failure().await;
    let MappingFailure::Refused { protocol: MappingProtocol::Pcp, why } = failure else {
        panic!("{failure:?}")
    };
    assert!(why.contains("Not authorized"), "{why}");

    let router = FakeRouter::start(Speaks::Pcp).await;
    let (gateway, ssdp) = (router.ip(), router.ssdp());
    let start = |listening: &str, route: fn(Ipv4Addr) -> Option<Route>| {
        Running::start(ssdp, listening, move || route(gateway))
    };
    let no_route = start("127.0.0.1:7117", |_| None);
    let public = start("0.0.0.0:7117", |gateway| {
        Some(Route { gateway, local: Ipv4Addr::new(192, 0, 2, 1) })
    });
    let elsewhere = start("127.0.0.2:7117", route::towards);
    for (mut node, expected) in [
        (no_route, MappingFailure::NoRouter),
        (public, MappingFailure::NotNeeded),
        (elsewhere, MappingFailure::NotListening),
    ] {
        assert_eq!(node.failure().await, expected);
        node.stop().await;
    }
    assert_eq!(lock(&router.state).requests, 0, "a router is asked only for ports that it can map");
}

#[tokio::test]
async fn another_network_has_another_router() {
    let first = FakeRouter::start(Speaks::Pcp).await;
    let second = FakeRouter::start(Speaks::NatPmp).await;
    let gateway = Arc::new(Mutex::new(first.ip()));
    let current = gateway.clone();
    let mut node =
        Running::start(first.ssdp(), "127.0.0.1:7117", move || route::towards(*lock(&current)));
    assert_eq!(node.mapped().await.protocol, MappingProtocol::Pcp);
    *lock(&gateway) = second.ip();
    let by_second = |state: &MappingState| match state {
        MappingState::Mapped(PortMapping { protocol: MappingProtocol::NatPmp, .. }) => Some(()),
        _ => None,
    };
    node.wait(by_second).await;
    assert_eq!(second.mappings().len(), 2);
    node.stop().await;
    assert_eq!(second.mappings(), [""; 0]);
}

#[test]
fn the_nonce_is_that_of_the_key() {
    let of = |byte| nonce(&Key::from_secret(&[byte; 32]));
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert_ne!(of(1)[0], of(1)[1]);
}
