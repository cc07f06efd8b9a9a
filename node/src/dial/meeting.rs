//! Meetings: the candidates for hole punching and the relays of one node, in the order in which they are tried.

use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::peer::meetings::{
    MEETING_TIME, MeetingAddresses, RELAY_AFTER, RELAY_PREPARED_AFTER,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::staggered::{first_success, staggered_success, with_second_way};
use super::{MAX_DIALLED, timed_out};
use crate::error::Error;

/// Meets a node at the first of its addresses that connects. The candidates for hole punching are dialled at the same
/// moment. The relays follow when all of them have failed, or later beside them.
pub(super) async fn meet<T, F>(
    addresses: Vec<Address>,
    attempt: impl Fn(Address) -> F,
) -> Result<T, Vec<Error>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let MeetingAddresses { candidates, relays } = MeetingAddresses::of(addresses);
    let begun = Instant::now();
    let no_hole = Notify::new();
    let punching = async {
        let punched = punch(candidates, &attempt).await;
        punched.inspect_err(|_| no_hole.notify_one())
    };
    let relaying = async {
        let relayed = first_success(relays, MAX_DIALLED, &attempt).await?;
        tokio::select! {
            () = sleep_until(begun + RELAY_AFTER) => {}
            () = no_hole.notified() => {}
        }
        Ok(relayed)
    };
    let met = with_second_way(punching, relaying, RELAY_PREPARED_AFTER).await;
    met.map_err(|(punching, relaying): (Vec<_>, Vec<_>)| {
        punching.into_iter().chain(relaying).collect()
    })
}

/// Dials the candidates for hole punching.
async fn punch<T, F>(
    candidates: Vec<Address>,
    attempt: impl Fn(Address) -> F,
) -> Result<T, Vec<Error>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let Some(first) = candidates.first().cloned() else { return Err(Vec::new()) };
    // The other node dials at this moment too, so no candidate waits for another.
    let connected = staggered_success(candidates, MAX_DIALLED, Duration::ZERO, attempt);
    timeout(MEETING_TIME, connected).await.unwrap_or_else(|_| {
        let why = format!("no hole was punched within {} s", MEETING_TIME.as_secs());
        Err(vec![Error::Connect { address: first, error: timed_out(why) }])
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use peerkit_proto::address::Scheme;

    use super::*;
    use crate::lock::lock;

    /// Meets a node at these addresses. The function says after how many milliseconds each of them connects or fails.
    /// Returns the scheme that won, the time, and the times at which relays were tried.
    async fn run(
        addresses: &[&str],
        outcome: fn(Scheme) -> (u64, bool),
    ) -> (Result<Scheme, usize>, u128, Vec<u128>) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let begun = Instant::now();
        let relayed = Arc::<Mutex<Vec<u128>>>::default();
        let met = meet(addresses, |address| {
            let relayed = relayed.clone();
            async move {
                if address.scheme == Scheme::Relay {
                    lock(&relayed).push(begun.elapsed().as_millis());
                }
                let (millis, succeeds) = outcome(address.scheme);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                if succeeds { Ok(address.scheme) } else { Err(Error::Stopped) }
            }
        });
        let met = met.await.map_err(|errors| errors.len());
        let relayed = lock(&relayed).clone();
        (met, begun.elapsed().as_millis(), relayed)
    }

    const ADDRESSES: [&str; 2] = ["quic://192.0.2.1:1", "relay://192.0.2.2:2"];

    #[tokio::test(start_paused = true)]
    async fn a_hole_that_is_punched_soon_troubles_no_relay() {
        let met = run(&ADDRESSES, |_| (240, true)).await;
        assert_eq!(met, (Ok(Scheme::Quic), 240, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_is_prepared_early_and_used_late() {
        let silent = |scheme| if scheme == Scheme::Quic { (60_000, true) } else { (800, true) };
        assert_eq!(run(&ADDRESSES, silent).await, (Ok(Scheme::Relay), 1_200, vec![400]));
        let slow = |scheme| if scheme == Scheme::Quic { (1_100, true) } else { (100, true) };
        assert_eq!(run(&ADDRESSES, slow).await, (Ok(Scheme::Quic), 1_100, vec![400]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_is_used_as_soon_as_no_hole_can_be_punched() {
        let refused = |scheme| if scheme == Scheme::Quic { (1, false) } else { (800, true) };
        assert_eq!(run(&ADDRESSES, refused).await, (Ok(Scheme::Relay), 801, vec![1]));
        assert_eq!(run(&ADDRESSES[1..], refused).await, (Ok(Scheme::Relay), 800, vec![0]));
        let late = |scheme| if scheme == Scheme::Quic { (900, false) } else { (100, true) };
        assert_eq!(run(&ADDRESSES, late).await, (Ok(Scheme::Relay), 900, vec![400]));
    }

    #[tokio::test(start_paused = true)]
    async fn punching_ends_after_its_time_and_all_failures_are_reported() {
        let nothing = |scheme| if scheme == Scheme::Quic { (60_000, true) } else { (100, false) };
        assert_eq!(run(&ADDRESSES, nothing).await, (Err(2), 4_000, vec![400]));
    }
}
