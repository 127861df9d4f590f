//! Lines that are dead without being closed.
//!
//! A peer that has vanished behind a proxy, or a firewall that has forgotten the connection, answers
//! nothing and breaks nothing: without a look from outside a poll would wait for ever. A long silence
//! of PostgreSQL may also be a long sort, so it is asked on a new connection what our session does.
//! Kafka's client has deadlines of its own; here its silence is only told.

use super::errors::SessionError;
use crate::{
    config::model::Pipeline,
    health::{State, Unit},
    postgres::{PostgresError, connect},
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A silence that is looked into, and the time for the answer.
const LONG: Duration = Duration::from_secs(5);
/// Kafka may need longer for a large transaction, and ends it by itself.
const LONG_FOR_KAFKA: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(500);

/// Whose answer the stage waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Postgres,
    Kafka,
}

/// What the stage waits for, and since when. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Mutex<Option<(Side, Instant)>>>);

/// While it lives the stage waits; a new one begins a new wait.
pub struct Waiting(Pulse);

impl Pulse {
    #[must_use]
    pub fn waiting(&self, side: Side) -> Waiting {
        *self.lock() = Some((side, Instant::now()));
        Waiting(self.clone())
    }

    fn current(&self) -> Option<(Side, Instant)> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Side, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().take();
    }
}

/// What is watched in one turn.
pub struct Watch {
    pub pulse: Pulse,
    pub pipeline: Arc<Pipeline>,
    /// Process id of our session.
    pub backend: i32,
    pub units: Vec<Unit>,
}

impl Watch {
    /// Returns once our session with PostgreSQL is found dead, with what to tell; never before.
    pub async fn dead(self) -> SessionError {
        let mut looked_at = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let Some((side, since)) = self.pulse.current() else { continue };
            let silence = since.elapsed();
            match side {
                Side::Kafka if silence > LONG_FOR_KAFKA => self.tell(format!(
                    "Kafka at {} has not answered for {} s",
                    self.pipeline.kafka.brokers,
                    LONG_FOR_KAFKA.as_secs()
                )),
                Side::Kafka => {}
                Side::Postgres if silence < LONG => {}
                Side::Postgres if looked_at.is_some_and(|at: Instant| at.elapsed() < LONG) => {}
                Side::Postgres => {
                    looked_at = Some(Instant::now());
                    let asked = self.is_working().await;
                    // What came meanwhile was only slow.
                    let is_over = self.pulse.current() != Some((side, since));
                    match asked {
                        _ if is_over => {}
                        // A long question is a sign of life.
                        Ok(true) => self.units.iter().for_each(|unit| unit.rests_for(Duration::ZERO)),
                        Ok(false) => return SessionError::Silent { seconds: since.elapsed().as_secs() },
                        Err(error) => return error,
                    }
                }
            }
        }
    }

    /// Whether the server is busy with what we asked, rather than waiting for us.
    async fn is_working(&self) -> Result<bool, SessionError> {
        let config = self.pipeline.postgres.as_ref().ok_or(SessionError::NotConfigured)?;
        let question = "SELECT state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'
            FROM pg_stat_activity WHERE pid = $1";
        let asked = async {
            let client = connect(config).await?;
            client.query_opt(question, &[&self.backend]).await.map_err(PostgresError::Query)
        };
        match tokio::time::timeout(LONG.max(Duration::from_millis(config.connect_timeout_ms)), asked).await {
            Ok(row) => Ok(row?.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true))),
            Err(_) => Ok(false),
        }
    }

    fn tell(&self, reason: String) {
        for unit in self.units.iter().filter(|unit| unit.is_ready()) {
            unit.set(State::Failing(reason.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_guard() {
        let pulse = Pulse::default();
        assert_eq!(pulse.current(), None);
        let waiting = pulse.waiting(Side::Postgres);
        let first = pulse.current();
        assert_eq!(first.map(|(side, _)| side), Some(Side::Postgres));
        drop(waiting);
        assert_eq!(pulse.current(), None);
        let _again = pulse.waiting(Side::Kafka);
        assert_ne!(pulse.current(), first);
    }
}
