//! What the service manager is told (`sd_notify(3)`): that the service is ready once every unit is, what it waits for,
//! and that it is alive for as long as every unit gives signs of life. Nothing where it was not started by one.

use crate::health::{Health, State, UnitId, UnitStatus};
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::{sync::watch, time::Instant};

/// How often units are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Tells until shutdown, and of that. `NOTIFY_SOCKET` and `WATCHDOG_USEC` of the environment say where and how often.
pub async fn tell(health: Health, mut shutdown: watch::Receiver<bool>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Half the time that is given: one late sign is no fault.
    let interval = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut next_sign = Instant::now();
    let mut is_ready = false;
    let mut told = String::new();
    loop {
        let units = health.snapshot();
        let status = status_line(&units);
        if status != told {
            send(NotifyState::Status(&status));
            told = status;
        }
        if !is_ready && !units.is_empty() && units.iter().all(|(_, status)| status.state.is_ready()) {
            is_ready = true;
            send(NotifyState::Ready);
        }
        if let Some(interval) = interval
            && next_sign <= Instant::now()
            && !health.is_stalled()
        {
            send(NotifyState::Watchdog);
            next_sign = Instant::now() + interval;
        }
        let look = interval.map_or(LOOK, |interval| interval.min(LOOK));
        if tokio::time::timeout(look, shutdown.wait_for(|down| *down)).await.is_ok() {
            send(NotifyState::Stopping);
            // The drain has a limit of its own, after which the process leaves by itself.
            loop {
                send(NotifyState::Watchdog);
                tokio::time::sleep(interval.unwrap_or(LOOK)).await;
            }
        }
    }
}

fn send(state: NotifyState<'_>) {
    // Blocks where the manager does not read: that must not hold up anything else.
    if let Err(error) = tokio::task::block_in_place(|| sd_notify::notify(&[state])) {
        tracing::debug!("the service manager was not told: {error}");
    }
}

/// One line for `systemctl status`: how many units there are, and what keeps the first that is not ready.
fn status_line(units: &[(UnitId, UnitStatus)]) -> String {
    let waiting: Vec<&(UnitId, UnitStatus)> = units.iter().filter(|(_, status)| !status.state.is_ready()).collect();
    let Some((id, status)) = waiting.first() else {
        return format!("ready: {} units make progress or are caught up", units.len());
    };
    let reason = match &status.state {
        State::Waiting(reason) | State::Failing(reason) | State::Stopped(reason) => reason.as_str(),
        _ => "starting",
    };
    // A line break would end the message.
    let reason = reason.replace(['\n', '\r'], " ");
    format!("{} of {} units not ready; {} {}: {reason}", waiting.len(), units.len(), id.stage, id.unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_first_unit_that_is_not_ready() {
        let health = Health::new(Duration::from_secs(60), true);
        let (orders, chat) = (health.unit("p", "capture", "orders"), health.unit("p", "land", "chat"));
        assert_eq!(status_line(&health.snapshot()), "2 of 2 units not ready; capture orders: starting");
        orders.set(State::CaughtUp);
        chat.set(State::Failing("no\nspace".to_owned()));
        assert_eq!(status_line(&health.snapshot()), "1 of 2 units not ready; land chat: no space");
        chat.set(State::Progressing);
        assert_eq!(status_line(&health.snapshot()), "ready: 2 units make progress or are caught up");
    }
}
