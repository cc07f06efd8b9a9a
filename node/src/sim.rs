//! The simulator, which runs an application on thousands of nodes in one process, in virtual time.
//!
//! Each simulated node runs the state machines of a real node with the application's own
//! [`Handler`](crate::Handler). The simulator opens no sockets and never waits for real time to pass. The same
//! seed gives the same run, which [`Sim::trace_hash`] proves.
//!
//! ```
//! use std::time::Duration;
//!
//! use peerkit::sim::{Sim, SimConfig};
//! use peerkit::{Broadcast, Context, Handler};
//!
//! #[derive(Default)]
//! struct Log(Vec<String>);
//!
//! impl Handler for Log {
//!     fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
//!         self.0.push(broadcast.message.as_text().unwrap_or_default().to_owned());
//!     }
//! }
//!
//! # fn main() -> Result<(), peerkit::Error> {
//! let mut sim = Sim::new(SimConfig { seed: 7, ..SimConfig::default() });
//! let first = sim.add(Log::default());
//! for _ in 0..20 {
//!     let node = sim.add(Log::default());
//!     sim.join(node, first);
//! }
//! sim.run_for(Duration::from_secs(60));
//! sim.broadcast(first, "greeting", "hello")?;
//! sim.run_for(Duration::from_secs(5));
//! // An author gets no event for its own broadcast.
//! assert_eq!(sim.app(first).0.len(), 0);
//! assert!((1..=20).all(|node| sim.app(node).0 == ["hello"]));
//! # Ok(()) }
//! ```

pub use peerkit_proto::overlay::Overlay;
pub use peerkit_proto::peer::OperationId;
pub use peerkit_proto::sim::*;
