//! The protocol of peerkit as pure state machines.
//!
//! Nothing here reads a clock, opens a socket, starts a task, touches a file or takes chance from
//! its surroundings: time, bytes and a seed are handed in, so the same inputs give the same outputs
//! on a real node, in a test and in the simulator.
//!
//! Every state machine is driven in one way: *handle one thing, poll until `None`, sleep until
//! `poll_timeout`*.
//!
//! | module | what |
//! |---|---|
//! | [`id`], [`address`], [`message`], [`event`] | the nouns that all layers share |
//! | [`handler`] | an application as a trait |
//! | [`codec`], [`hello`], [`versions`], [`frame`], [`record`], [`seal`], [`tls`] | the wire |
//! | [`link`] | one link: Hello, frames, liveness |
//! | [`overlay`] | the network around a node: admission, queries, broadcast, redial |
//! | [`files`] | pieces, manifests, and names that can't leave a folder |
//! | [`config`] | every limit and where it came from |
//! | [`sim`] | thousands of nodes in virtual time |

pub mod address;
pub mod bucket;
pub mod codec;
pub mod config;
pub mod event;
pub mod files;
pub mod frame;
pub mod handler;
pub mod hello;
pub mod id;
pub mod link;
pub mod message;
pub mod overlay;
mod pasted;
pub mod peer;
pub mod record;
pub mod sample;
pub mod seal;
pub mod sim;
pub mod time;
pub mod tls;
pub mod verify;
pub mod versions;
