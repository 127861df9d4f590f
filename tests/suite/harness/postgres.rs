//! A blocking session with PostgreSQL.

use super::block_on;
use headwater::config::model::Postgres;
use tokio_postgres::{Client, SimpleQueryMessage};

/// One connection. Several threads take one each.
pub struct Db {
    pub client: Client,
}

impl Db {
    pub fn connect(config: &Postgres) -> Db {
        Db::try_connect(config).expect("a connection")
    }

    pub fn try_connect(config: &Postgres) -> Result<Db, headwater::postgres::PostgresError> {
        Ok(Db { client: block_on(headwater::postgres::connect(config))? })
    }

    /// Runs statements, as one message where there are several.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        if let Err(error) = self.try_execute(sql) {
            panic!("{}\n  in: {sql}", headwater::postgres::chain(&error));
        }
    }

    pub fn try_execute(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        block_on(self.client.batch_execute(sql))
    }

    /// All rows, each value as PostgreSQL prints it.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = block_on(self.client.simple_query(sql)).expect("the query");
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()),
            _ => None,
        });
        rows.collect()
    }

    /// The one value of a query, which is not null.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        self.rows(sql).swap_remove(0).swap_remove(0).expect("a value")
    }

    #[track_caller]
    pub fn count(&self, sql: &str) -> u64 {
        self.value(sql).parse().expect("a count")
    }
}
