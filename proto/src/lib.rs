//! The protocol of peerkit as pure state machines.
//!
//! Nothing in this crate reads a clock, opens a socket, starts a task, touches a file or takes
//! random numbers from the system. The caller passes in the time, received bytes and a seed. So the
//! same inputs give the same outputs on a real node, in a test and in the simulator.
//!
//! # The contract
//! A shell is the code that drives a state machine: the real node, the simulator or a test. It
//! drives each state machine in the same way:
//! 1. *Mutate*: pass one input to the machine, with the current time.
//! 2. *Drain*: take the outputs of the machine until there is none, and carry them out.
//! 3. *Sleep* until the deadline of the machine or the next input. At the deadline, pass the
//!    current time to the machine.
//!
//! A machine does nothing between two calls, and its outputs depend only on its inputs. This is the
//! loop of a shell, here for a node that discovers an empty network:
//!
//! ```
//! use peerkit_proto::config::Config;
//! use peerkit_proto::frame::query::QueryKind;
//! use peerkit_proto::id::Key;
//! use peerkit_proto::overlay::NodeSetup;
//! use peerkit_proto::peer::{Input, Machine, OperationId, Output};
//! use peerkit_proto::time::{Instant, Now};
//!
//! let mut now = Now { monotonic: Instant::ZERO, unix: 1_735_689_600_000 };
//! let setup = NodeSetup {
//!     key: Key::from_secret(&[7; 32]),
//!     name: "ann".into(),
//!     network: "peerkit".into(),
//!     epoch: now.unix,
//!     manual: false,
//! };
//! let mut machine = Machine::new(now, setup, &Config::default(), [1; 32]);
//! let operation = OperationId(1);
//! let what = QueryKind::Discover;
//! let mut next = Some(Input::Query { operation, what, depth: -1, own: false, timeout: None });
//! let mut ended = None;
//! while ended.is_none() {
//!     match next.take() {
//!         Some(input) => machine.handle(now, input),
//!         None => machine.handle_timeout(now),
//!     }
//!     while let Some(output) = machine.poll(|_, _| false) {
//!         match output {
//!             Output::QueryEnded { complete, .. } => ended = Some(complete),
//!             // A real shell also sends frames, dials, and delivers events to the application.
//!             _ => {}
//!         }
//!     }
//!     // A real shell sleeps until then, or until the next input.
//!     if let Some(due) = machine.poll_timeout() {
//!         now.monotonic = now.monotonic.max(due);
//!     }
//! }
//! assert_eq!(ended, Some(true));
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`id`], [`address`], [`message`], [`event`] | the types that all layers share |
//! | [`handler`] | the trait for applications |
//! | [`codec`], [`hello`], [`versions`], [`frame`], [`node_record`], [`seal`], [`tls`] | the wire protocol |
//! | [`link`] | one end of a link: Hello, frames, liveness, acknowledgements |
//! | [`peer`] | one node: its links, dials and messages; drives the overlay |
//! | [`overlay`] | the network around a node: membership, queries, broadcasts, reconnecting |
//! | [`invitation`] | membership of networks whose owner invites |
//! | [`files`] | file pieces, manifests, and names that can't lead out of a folder |
//! | [`config`] | all limits and intervals, with the reasons for them |
//! | [`address_group`], [`bucket`] | addresses of one owner, rate limits |
//! | [`sample`], [`time`], [`verify`] | estimated sizes, time, signatures |
//! | [`sim`] | thousands of nodes in virtual time |

pub mod address;
pub mod address_group;
pub mod bucket;
pub mod codec;
pub mod config;
mod deadlines;
pub mod event;
pub mod files;
pub mod frame;
pub mod handler;
pub mod hello;
pub mod id;
pub mod invitation;
pub mod link;
pub mod message;
pub mod node_record;
pub mod overlay;
pub mod peer;
pub mod sample;
pub mod seal;
pub mod sim;
mod text;
pub mod time;
pub mod tls;
pub mod verify;
pub mod versions;
