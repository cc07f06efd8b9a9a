//! Eviction of inbound links: chooses the link that makes room when the inbound places are short.
//!
//! The rules follow Bitcoin Core (`src/node/eviction.cpp`). An attacker can be good at one thing, such as a low
//! round-trip time, but hardly at all of them. So a few links are protected for each of several merits, and
//! half of the rest because they have lasted longest. Among what is left, the newest link of the address group
//! with most links ends.
//!
//! In one respect this is stricter than Bitcoin Core: of the links that have lasted longest, each group has one
//! protected before any has two. Otherwise an attacker that came early would keep half of the places for ever.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::id::NodeId;
use crate::time::Instant;

/// Divisors that give the number of links protected for each merit, of all inbound places. As in Bitcoin Core,
/// which protects 4 groups, 8 links with low round-trip times and 4 useful links of about 125.
const GROUP_SHARE: usize = 32;
const RTT_SHARE: usize = 16;
const USEFUL_SHARE: usize = 32;

/// An inbound link that may be evicted. A link that the node needs is not among the candidates.
#[derive(Debug, Clone)]
pub(super) struct EvictionCandidate {
    pub(super) id: NodeId,
    /// The address group of the peer, or its host if it has no group. `None` for loopback addresses that are
    /// not limited, which share one group here.
    pub(super) group: Option<IpAddr>,
    /// The time at which the link came up.
    pub(super) since: Instant,
    pub(super) rtt: Option<Duration>,
    /// The time of the last broadcast that arrived over this link first.
    pub(super) useful_at: Option<Instant>,
}

/// Chooses the link to evict for a newcomer, of `places` inbound places in total. `newcomers` is the number of
/// links that the newcomer's group has. `key` is secret: it decides which groups are protected, so that an
/// attacker can't choose an address in one of them.
///
/// Returns `None` if every link is protected, or if the newcomer's group has as many links as any other. So
/// the nodes of one group do not displace each other.
pub(super) fn choose(
    mut links: Vec<EvictionCandidate>,
    newcomers: usize,
    places: usize,
    key: &[u8; 32],
) -> Option<NodeId> {
    let mut sizes = BTreeMap::<_, usize>::new();
    for link in &links {
        *sizes.entry(link.group).or_default() += 1;
    }
    protect_groups(&mut links, places.div_ceil(GROUP_SHARE), key);
    // Links whose round-trip time is unknown are the slowest.
    links.sort_by_key(|link| (link.rtt.unwrap_or(Duration::MAX), link.since));
    links.drain(..places.div_ceil(RTT_SHARE).min(links.len()));
    links.sort_by_key(|link| std::cmp::Reverse(link.useful_at));
    let useful = links.iter().take_while(|link| link.useful_at.is_some()).count();
    links.drain(..places.div_ceil(USEFUL_SHARE).min(useful));
    protect_longest(&mut links);
    let size = |link: &EvictionCandidate| sizes.get(&link.group).copied().unwrap_or_default();
    let victim = links.iter().max_by_key(|link| (size(link), link.since))?;
    (newcomers < size(victim)).then_some(victim.id)
}

/// Protects half of the links: those that have lasted longest, from all groups in turn.
fn protect_longest(links: &mut Vec<EvictionCandidate>) {
    links.sort_by_key(|link| link.since);
    let mut seen = BTreeMap::<_, usize>::new();
    let ranks = links.iter().map(|link| {
        let rank = seen.entry(link.group).or_default();
        *rank += 1;
        *rank
    });
    let mut ranked: Vec<_> = ranks.collect::<Vec<_>>().into_iter().zip(links.drain(..)).collect();
    // The sort is stable, so the links of one rank stay sorted by age.
    ranked.sort_by_key(|(rank, _)| *rank);
    links.extend(ranked.drain(ranked.len().div_ceil(2)..).map(|(_, link)| link));
}

/// Protects the longest link of each of some groups, which only `key` decides.
fn protect_groups(links: &mut Vec<EvictionCandidate>, count: usize, key: &[u8; 32]) {
    let rank = |group: Option<IpAddr>| {
        let text = group.map(|group| group.to_string()).unwrap_or_default();
        *blake3::keyed_hash(key, text.as_bytes()).as_bytes()
    };
    let mut oldest = BTreeMap::new();
    for link in links.iter() {
        let of_group = oldest.entry(rank(link.group)).or_insert((link.since, link.id));
        *of_group = (link.since, link.id).min(*of_group);
    }
    let protected: Vec<_> = oldest.into_values().take(count).map(|(_, id)| id).collect();
    links.retain(|link| !protected.contains(&link.id));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 128;

    fn id(n: usize) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    /// Returns link `n` of the group 198.`group`.0.0, which came up in second `n`.
    fn link(n: usize, group: u8) -> EvictionCandidate {
        EvictionCandidate {
            id: id(n),
            group: Some(IpAddr::from([198, group, 0, 0])),
            since: Instant::from_origin(Duration::from_secs(n as u64)),
            rtt: Some(Duration::from_millis(50)),
            useful_at: None,
        }
    }

    fn evicted(links: &[EvictionCandidate], newcomers: usize) -> Option<NodeId> {
        choose(links.to_vec(), newcomers, PLACES, &[7; 32])
    }

    #[test]
    fn the_newest_link_of_the_most_crowded_group_ends() {
        // Honest links of 28 groups are the newest; an attacker holds the other places.
        let attack = (0..100).map(|n| link(n, u8::try_from(n % 2).unwrap()));
        let honest = (100..128).map(|n| link(n, u8::try_from(n).unwrap()));
        let links: Vec<_> = attack.chain(honest).collect();
        let victim = evicted(&links, 0).unwrap();
        assert!(victim == id(99) || victim == id(98), "{victim}");
        // A newcomer of the attacker's group does not displace its own.
        assert_eq!(evicted(&links, 50), None);
    }

    #[test]
    fn nodes_of_one_group_do_not_displace_each_other() {
        let links: Vec<_> = (0..128).map(|n| link(n, 1)).collect();
        assert_eq!(evicted(&links, 128), None);
        assert_eq!(evicted(&links, 0), Some(id(127)));
    }

    #[test]
    fn useful_links_and_those_with_low_round_trip_times_are_protected() {
        let mut links: Vec<_> = (0..128).map(|n| link(n, 1)).collect();
        for (at, entry) in links.iter_mut().enumerate().skip(120) {
            entry.rtt = Some(Duration::from_millis(128 - at as u64));
        }
        assert_eq!(evicted(&links, 0), Some(id(119)), "8 links have a lower round-trip time");
        for entry in &mut links[116..120] {
            entry.useful_at = Some(entry.since);
        }
        assert_eq!(evicted(&links, 0), Some(id(115)), "4 links were useful");
    }

    #[test]
    fn an_attacker_that_came_first_does_not_keep_its_places() {
        let attack = (0..64).map(|n| link(n, 1));
        let honest = (64..128).map(|n| link(n, u8::try_from(n).unwrap()));
        let mut links: Vec<_> = attack.chain(honest).collect();
        for n in 128..160 {
            let victim = evicted(&links, 0).unwrap();
            assert!((0..64).any(|n| victim == id(n)), "a link of the attacker's group ends");
            links.retain(|link| link.id != victim);
            links.push(link(n, u8::try_from(n).unwrap()));
        }
    }

    #[test]
    fn few_links_are_all_protected() {
        for n in 0..4 {
            let links: Vec<_> = (0..n).map(|n| link(n, 1)).collect();
            assert_eq!(choose(links, 0, 3, &[7; 32]), None, "{n}");
        }
        assert_eq!(choose(Vec::new(), 0, 0, &[7; 32]), None);
    }

    /// An attacker that opens links from eight groups never displaces a link of a group with fewer links.
    #[test]
    fn an_attacker_with_eight_groups_evicts_itself() {
        let mut links: Vec<_> = (0..40).map(|n| link(n, u8::try_from(100 + n).unwrap())).collect();
        for n in 40..2000 {
            let newcomer = link(n, u8::try_from(n % 8).unwrap());
            let of_group = links.iter().filter(|link| link.group == newcomer.group).count();
            if links.len() >= PLACES {
                let Some(victim) = evicted(&links, of_group) else { continue };
                links.retain(|link| link.id != victim);
            }
            links.push(newcomer);
        }
        assert!((0..40).all(|n| links.iter().any(|link| link.id == id(n))));
    }
}
