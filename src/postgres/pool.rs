//! Pooled connections: as those of [`super::connect`], kept open between uses.

use super::{PostgresError, connect_error, pins, settings, tls_connector};
use crate::config::model::{Postgres, TlsMode};
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, PoolError, RecyclingMethod, Runtime};
use std::time::Duration;
use tokio_postgres::NoTls;

/// What a connection may take to prove that it is alive before it is used again.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Clones share the connections.
#[derive(Clone)]
pub struct Pool {
    connections: deadpool_postgres::Pool,
    config: Postgres,
}

/// For the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub most: usize,
    /// Open connections, in use or not.
    pub open: usize,
    pub idle: usize,
    /// Tasks that wait for a connection.
    pub waiting: usize,
}

impl Pool {
    /// Opens nothing yet. `options` are session settings beside the pinned ones, as `-c name=value`.
    pub fn new(config: &Postgres, application: &str, options: &str, most: usize) -> Result<Pool, PostgresError> {
        let settings = settings(config, application, &pins::startup(options));
        let options = options.to_owned();
        let pin = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let options = options.clone();
            Box::pin(async move {
                match pins::apply(client, &options).await {
                    Ok(None) => Ok(()),
                    Ok(Some(missing)) => Err(HookError::message(missing)),
                    Err(PostgresError::Query(error)) => Err(HookError::Backend(error)),
                    Err(error) => Err(HookError::message(error.to_string())),
                }
            })
        });
        // A connection that was cut off looks whole until it is asked something.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Verified };
        let manager = match config.tls_mode {
            TlsMode::Disable => Manager::from_config(settings, NoTls, recycling),
            _ => Manager::from_config(settings, tls_connector(config)?, recycling),
        };
        let timeout = Some(Duration::from_millis(config.connect_timeout_ms));
        let connections = deadpool_postgres::Pool::builder(manager)
            .max_size(most)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .recycle_timeout(Some(RECYCLE_TIMEOUT))
            .post_create(pin)
            .build()
            .map_err(|_| timeout_error(config))?;
        Ok(Pool { connections, config: config.clone() })
    }

    /// A connection of the pool, given back when dropped.
    pub async fn get(&self) -> Result<Object, PostgresError> {
        self.connections.get().await.map_err(|error| match error {
            PoolError::Backend(source) => connect_error(&self.config, &self.address(), source),
            PoolError::PostCreateHook(HookError::Backend(source)) => PostgresError::Query(source),
            PoolError::PostCreateHook(HookError::Message(settings)) => {
                let (address, pooler) = (self.address(), "a pooler".to_owned());
                PostgresError::Pooled { address, pooler, settings: settings.into_owned() }
            }
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => PostgresError::PoolExhausted {
                address: self.address(),
                size: self.connections.status().max_size,
                timeout_ms: self.config.connect_timeout_ms,
            },
            _ => timeout_error(&self.config),
        })
    }

    fn address(&self) -> String {
        format!("{}:{}", self.config.host, self.config.port)
    }

    pub fn figures(&self) -> Figures {
        let status = self.connections.status();
        Figures { most: status.max_size, open: status.size, idle: status.available, waiting: status.waiting }
    }
}

fn timeout_error(config: &Postgres) -> PostgresError {
    PostgresError::Timeout {
        address: format!("{}:{}", config.host, config.port),
        timeout_ms: config.connect_timeout_ms,
    }
}
