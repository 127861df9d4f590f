//! Windows over event time: events in, rows and progress out. Pure: no I/O, and time is an argument.
//!
//! **What it promises.** A window's final row holds every event of its span that came before it closed,
//! each once; an event that came later is counted as late for that window. Neither depends on when
//! flushes are taken, nor on the order of events among themselves. Every record is exactly one of
//! [`Added`], so that counted, partly late, late, duplicate and future events add up to the records read.
//!
//! **Panes.** State is kept by pane (gcd of size and slide), then key; a row is the merge of its
//! window's panes. A pane is dropped when the last window that holds it closes.
//!
//! **Time.** The watermark of a partition is its newest timestamp less the delay; that of the stage is
//! the least over partitions that are not idle, and never falls. Dead letters, events from the future and those
//! more than a day behind (the watermark, or the events of another partition) say nothing of time: they neither hold
//! it nor keep a partition awake. A partition is idle when the broker has called its log at its end for as long
//! as the timeout, and none of these came meanwhile; the records of an open transaction are still to come. A window is final when the watermark
//! reaches its end, and closes `allowed_lateness` later; in between, late events make revisions. The
//! watermark is judged at each event, not at each flush: of a window that has closed but is not yet
//! flushed, the row is made before a later event enters its panes. Only where more rows would come due
//! than one flush may hold does the watermark wait for the flush, and events are late the later.
//!
//! **Late events.** [`Added::Late`] is an event that no window takes: counted, it is one event.
//! [`Added::PartlyLate`] is in the windows still open. Both are listed by each closed window that misses
//! them ([`LateCount`]): so many events does the row of that window lack. With sliding windows one event
//! may be listed more than once; the number of events is that of [`Added`].
//!
//! **When progress moves.** A [`Flush`] holds the rows and the progress they belong to, for one commit.
//! A committed flush vouches for every record below `next_offset`: its windows that were final stand in
//! the table, its late events are listed, and its open panes can be built again from `replay_offset`,
//! the oldest record that they depend on. There is one flush at a time, and a commit that failed is
//! repeated with the same one: so the engine need not keep what it has handed out.
//!
//! **After a restart** records are read again from `replay_offset`. Below the stored `next_offset` one
//! enters only a pane that is open under the stored watermark; otherwise it is passed over, neither
//! counted nor late. Until every partition is where it was, the watermark stands and there is no flush:
//! a row made from a part would replace a whole one. What was final is not written again unless a new
//! late event changes it. Ids are built again together with the panes.
//!
//! **Memory.** It grows with the keys and values of open panes; [`Engine::state_bytes`] says how much, so
//! that the stage reads no more than what can raise the watermark beyond a bound. Distinct values above a limit are estimated, tallies above a
//! limit keep what is frequent; either sets `is_approximate` on the row. Only for tallies above the
//! limit does the result depend on the order of events. Keys are kept whole: who decodes bounds them.

mod distinct;
mod engine;
mod event;
mod flush;
mod grid;
mod hashes;
mod ids;
mod intern;
mod layout;
mod merge;
mod number;
mod pane;
mod plan;
mod sketch;
mod source;
mod tally;
#[cfg(test)]
mod tests;

pub use crate::config::model::{Function, Join, Measure};
pub use engine::Engine;
pub use event::{Added, Event, Field, Value, WindowRow};
pub use flush::{Flush, LateCount, PartitionProgress, Progress};
pub use plan::{Declaration, FieldSlot, Plan, PlanError, Reading};
pub use source::Source;
