//! Writes the chat of a streaming platform into Kafka: messages and viewer counts of many streams.
//!
//! The events themselves are a pure sequence ([`Generator`]): a function of the [`Settings`], which
//! hold the seed and the time of the first event, and of nothing else. So a test can run the same
//! sequence beside the pipeline and compute what it must find. [`write`] sends it, either as fast as
//! Kafka takes it or each event when it is due.
//!
//! | file | |
//! | --- | --- |
//! | `settings` | what there is to choose, and the shape of a day |
//! | `streams`, `plan` | how large the streams are; what happens to them on a day |
//! | `generator` | the sequence: second by second of event time, in the order of arrival |
//! | `message`, `words` | what people write |
//! | `payload` | records as bytes, good and bad |
//! | `planted` | the list of what a detector should find |
//! | `options`, `run` | the command line; the sending |

mod draws;
mod generator;
mod message;
mod options;
mod payload;
mod plan;
mod planted;
mod run;
mod settings;
mod streams;
mod words;

pub use generator::{Event, Generator, REPEAT_MS, Topic, Totals};
pub use message::EMOTES_PER_MESSAGE;
pub use options::Options;
pub use payload::Defect;
pub use plan::{Episode, Kind};
pub use planted::PlantedFile;
pub use run::{Job, Pace, Progress, Report, write};
pub use settings::{DayShape, Plant, Settings, SettingsError, Volume};
pub use words::EMOTES;

use super::GenerateError;

/// Where the messages go unless told otherwise.
pub const CHAT_TOPIC: &str = "telemetra.events.chat";
/// Where the viewer counts go unless told otherwise.
pub const VIEWER_TOPIC: &str = "telemetra.events.viewer";

/// Writes a chat as the command line says, until it is written or a signal ends it.
pub async fn chat(options: Options) -> Result<Report, GenerateError> {
    write(options.job(super::until_signal()?)?).await
}

#[cfg(test)]
mod tests;
