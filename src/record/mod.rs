//! What a Kafka record's payload is read with: a JSON scanner, objects, numbers, times, and the reasons for
//! which a record is refused. Pure; shared by the stages that decode.

pub mod json;
pub mod number;
pub mod object;
pub mod reason;
pub mod time;
