//! What a Kafka record's payload is read with: a JSON scanner, objects, numbers, times, the reasons for which
//! a record is refused, and how its headers are kept then. Pure; shared by the stages that decode.

pub mod headers;
pub mod json;
pub mod number;
pub mod object;
pub mod reason;
pub mod time;
