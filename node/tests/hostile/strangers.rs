//! Attacks by many identities at many addresses.

use peerkit::{Node, Reason};

use crate::attacker::{End, STEP_TIMEOUT, Sybils, Victim, config, end_all, honest_address, within};

/// A hundred identities in eight groups get links, and the victim serves an honest node beside them.
#[tokio::test]
async fn a_hundred_identities_get_links() {
    let mut config = config();
    config.limit_loopback = true;
    let victim = Victim::with_config(config).await;
    let sybils = Sybils::new(100, 8);
    let links = sybils.link_all(victim.address()).await;
    assert_eq!(links.len(), 100);
    assert!(links.iter().all(|link| link.is_up()));
    victim.check_honest_node_is_served().await;
    victim.node.disconnect(links[0].id).await.unwrap();
    let ends = end_all(links).await;
    assert_eq!(ends[0], End::Goodbye(Reason::Requested));
    assert_eq!(ends[1], End::Closed);
    victim.check_unharmed().await;
}

/// A node that listens at one loopback address also dials from it.
#[tokio::test]
async fn an_honest_node_dials_from_the_address_at_which_it_listens() {
    let victim = Victim::new().await;
    let honest = Node::builder().listen(honest_address(3)).spawn().await.unwrap();
    let linking = honest.connect(victim.address());
    within(STEP_TIMEOUT, "an honest node's link", linking).await.unwrap();
    let peer = victim.node.peers().remove(0);
    assert_eq!(peer.address().host, "127.4.0.1");
    honest.shutdown().await;
    victim.check_unharmed().await;
}
