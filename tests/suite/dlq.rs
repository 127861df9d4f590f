//! `headwater dlq` on dead letters that the real stages have made: what is listed, shown and exported is what
//! they refused, and what is replayed is that to the byte, once.

mod captured;
mod compacted;
mod crash;
mod replay;
mod rights;
pub mod scene;
mod stores;
mod topics;
