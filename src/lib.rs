//! Headwater carries rows from PostgreSQL through Kafka into a date-partitioned lake.
//!
//! The one invariant: progress is stored in the same atomic commit as the data it vouches for.
//! See ARCHITECTURE.md for the map.

pub mod amount;
pub mod analyze;
pub mod app;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dlq;
pub mod doctor;
pub mod failpoint;
pub mod generate;
pub mod health;
pub mod http;
pub mod kafka;
pub mod keep;
pub mod lake;
pub mod land;
pub mod loss;
pub mod metrics;
pub mod output;
pub mod postgres;
pub mod record;
pub mod shell;
pub mod stage;
pub mod status;
pub mod systemd;
pub mod topics;
pub mod verify;
pub mod visible;
