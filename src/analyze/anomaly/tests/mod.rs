//! What needs more than one file to be shown: quality on generated streams, restarts, and what a watcher holds.

mod behaviour;
mod quality;
mod restart;
mod simulation;
