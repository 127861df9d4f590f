//! The play: raise the servers, play the parts, take everything down again or keep it.

use super::{DemoError, Options, chat, options::Part, orders, pipeline::Pipeline, stage_set::StageSet};
use crate::output;
use std::{
    path::PathBuf,
    pin::{Pin, pin},
    time::{Duration, Instant},
};

/// Generators look at their signal ten times a second.
const GENERATORS_LEAVE: Duration = Duration::from_millis(500);

/// True when nothing was lost, doubled or wrong. `interrupted` ends the play at any time; what it had made
/// on servers of others is taken back all the same.
pub async fn play(options: Options, interrupted: impl Future<Output = ()>) -> Result<bool, DemoError> {
    let options = options.with_environment();
    let clock = Clock { started: Instant::now() };
    let mut interrupted = pin!(interrupted);
    if options.postgres_url.is_none() || options.kafka_brokers.is_none() {
        clock.say("starting the private servers");
    }
    let set = or_interrupted(interrupted.as_mut(), StageSet::raise(&options)).await?;
    clock.say(&set.servers());
    let orders = orders::Names::write(&set)?;
    let chat = chat::Names::prepare(&set, options.plays(Part::Chat)).await?;
    let parts = Parts { clock: &clock, options: &options, set: &set, orders: &orders, chat: &chat };
    let result = or_interrupted(interrupted, parts.act()).await;
    if matches!(result, Err(DemoError::Interrupted)) {
        tokio::time::sleep(GENERATORS_LEAVE).await;
    }
    for cleared in [orders::clear(&set, &orders).await, chat::clear(&set, &chat).await] {
        if let Err(error) = cleared {
            output::complain(format_args!("demo: cleaning up: {error}"));
        }
    }
    if options.keep && result.is_err() {
        let stop = write_stop_script(&set, &[])?;
        output::complain(format_args!("demo: servers and files are kept; to stop them: sh {}", stop.display()));
    }
    result
}

async fn or_interrupted<T>(
    interrupted: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = Result<T, DemoError>>,
) -> Result<T, DemoError> {
    // Interrupted, the work's future is dropped, and with it its child processes.
    tokio::select! {
        result = work => result,
        () = interrupted => Err(DemoError::Interrupted),
    }
}

struct Parts<'a> {
    clock: &'a Clock,
    options: &'a Options,
    set: &'a StageSet,
    orders: &'a orders::Names,
    chat: &'a chat::Names,
}

impl Parts<'_> {
    async fn act(&self) -> Result<bool, DemoError> {
        let Parts { clock, options, set, orders, chat } = *self;
        let (with_orders, with_chat) = (options.plays(Part::Orders), options.plays(Part::Chat));
        let mut is_right = true;
        if with_orders {
            is_right &= orders::play(clock, options, set, orders).await?;
        }
        if with_chat {
            if with_orders {
                output::line("");
            }
            is_right &= chat::play(clock, options, set, chat).await?;
        }
        output::line(format_args!("\nthe whole demo took {:.0} s", clock.seconds()));
        if options.keep {
            let mut kept = Vec::new();
            output::line("\nkept running");
            if with_orders {
                let pipeline = Pipeline::keep(&set.logs, "orders-kept", &orders.config).await?;
                orders::show_kept(set, orders, pipeline.http_address().as_deref());
                kept.push(pipeline);
            }
            if with_chat {
                let pipeline = Pipeline::keep(&set.logs, "chat-kept", &chat.config).await?;
                chat::show_kept(set, chat, options, pipeline.http_address().as_deref());
                kept.push(pipeline);
            }
            output::line(format_args!("  logs      {}", set.logs.display()));
            output::line(format_args!("  stop it   sh {}", write_stop_script(set, &kept)?.display()));
        }
        Ok(is_right)
    }
}

fn write_stop_script(set: &StageSet, pipelines: &[Pipeline]) -> Result<PathBuf, DemoError> {
    let stop = set.directory.join("stop.sh");
    let drain: String = pipelines.iter().map(|pipeline| format!("kill -TERM {}\n", pipeline.pid())).collect();
    let (servers, directory) = (set.stop_commands(), set.directory.display());
    let script = format!("#!/bin/sh\n{drain}sleep 2\n{servers}sleep 3\nrm -rf '{directory}'\n");
    std::fs::write(&stop, script).map_err(super::file_error(&stop))?;
    Ok(stop)
}

/// The first column of the progress lines.
pub struct Clock {
    started: Instant,
}

impl Clock {
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub fn say(&self, text: &str) {
        output::line(format_args!("{:>5.0} s  {text}", self.seconds()));
    }
}

/// A line that belongs to the one before.
pub fn clock_line(text: &str) {
    output::line(format_args!("         {text}"));
}
