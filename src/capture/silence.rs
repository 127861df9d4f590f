//! Lines that are dead without being closed.
//!
//! A peer that has vanished behind a proxy, or a firewall that has forgotten the connection, answers
//! nothing and breaks nothing: without a look from outside a poll would wait for ever. A long silence
//! of PostgreSQL may also be a long sort, so it is asked on another connection what our session does.
//! Only what that says again and again ends a session: a server that is too busy to answer, or has no
//! connection free, is not dead. Kafka's client has deadlines of its own; here its silence is only told.

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
use tokio_postgres::{Client, error::SqlState};

/// A silence that is looked into, and the time for the answer.
const LONG: Duration = Duration::from_secs(5);
/// Kafka may need longer for a large transaction, and ends it by itself.
const LONG_FOR_KAFKA: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(500);
/// Looks in a row that found the session idle: it may have answered just before one.
const MOST_IDLE: u32 = 2;
/// Looks in a row that nobody answered.
const MOST_UNANSWERED: u32 = 3;

/// Whose answer the stage waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Postgres,
    /// The disk of PostgreSQL's log.
    Disk,
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
    /// Our second session.
    pub side: Arc<Client>,
    pub units: Vec<Unit>,
}

/// What a look at our session has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The server works for us.
    Working,
    /// It waits for us, or has forgotten us.
    Idle,
    /// It refuses another connection: alive, and no more can be told.
    Full,
    Unanswered,
}

/// Whether the looks at one wait, the latest last, mean that the line is dead.
fn is_dead(looks: &[Look]) -> bool {
    let last = |found| looks.iter().rev().take_while(|look| **look == found).count() as u32;
    last(Look::Idle) >= MOST_IDLE || last(Look::Unanswered) >= MOST_UNANSWERED
}

impl Watch {
    /// Returns once our session with PostgreSQL is found dead, with what to tell; never before.
    pub async fn dead(self) -> SessionError {
        let mut looked_at: Option<Instant> = None;
        let mut wait = None;
        let mut looks = Vec::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let Some((side, since)) = self.pulse.current() else { continue };
            if wait.replace((side, since)) != Some((side, since)) {
                looks.clear();
            }
            let silence = since.elapsed();
            match side {
                Side::Kafka if silence > LONG_FOR_KAFKA => self.tell(format!(
                    "Kafka at {} has not answered for {} s",
                    self.pipeline.kafka.brokers,
                    LONG_FOR_KAFKA.as_secs()
                )),
                Side::Disk if silence > LONG => self.tell(format!(
                    "PostgreSQL's log has not reached its disk for {} s: what was read waits for it",
                    LONG.as_secs()
                )),
                Side::Kafka | Side::Disk => {}
                Side::Postgres if silence < LONG => {}
                Side::Postgres if looked_at.is_some_and(|at| at.elapsed() < LONG) => {}
                Side::Postgres => {
                    let look = self.look().await;
                    looked_at = Some(Instant::now());
                    // What came meanwhile was only slow.
                    if self.pulse.current() != wait {
                        continue;
                    }
                    looks.push(look);
                    if is_dead(&looks) {
                        return SessionError::Silent { seconds: since.elapsed().as_secs() };
                    }
                    if look == Look::Working {
                        // A long question is a sign of life.
                        self.units.iter().for_each(|unit| unit.rests_for(Duration::ZERO));
                    }
                }
            }
        }
    }

    /// Asks on the second session, and on a new one where that does not answer.
    async fn look(&self) -> Look {
        if let Ok(Ok(look)) = tokio::time::timeout(LONG, self.ask(&self.side)).await {
            return look;
        }
        let Some(config) = self.pipeline.postgres.as_ref() else { return Look::Unanswered };
        let asked = async {
            let client = connect(config).await?;
            self.ask(&client).await.map_err(PostgresError::Query)
        };
        match tokio::time::timeout(LONG.max(Duration::from_millis(config.connect_timeout_ms)), asked).await {
            Ok(Ok(look)) => look,
            Ok(Err(PostgresError::Unreachable { source, .. }))
                if source.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) =>
            {
                Look::Full
            }
            _ => Look::Unanswered,
        }
    }

    /// Whether the server is busy with what we asked, rather than waiting for us.
    async fn ask(&self, client: &Client) -> Result<Look, tokio_postgres::Error> {
        let question = "SELECT state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'
            FROM pg_stat_activity WHERE pid = $1";
        let row = client.query_opt(question, &[&self.backend]).await?;
        let is_working = row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true));
        Ok(if is_working { Look::Working } else { Look::Idle })
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
    fn only_what_is_seen_again_is_dead() {
        use Look::{Full, Idle, Unanswered, Working};
        assert!(is_dead(&[Working, Idle, Idle]));
        assert!(is_dead(&[Unanswered, Unanswered, Unanswered]));
        for alive in [&[Idle][..], &[Idle, Working], &[Idle, Working, Idle], &[Unanswered, Unanswered], &[Full; 9]] {
            assert!(!is_dead(alive), "{alive:?}");
        }
    }

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
