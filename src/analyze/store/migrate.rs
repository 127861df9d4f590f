//! The tables that the program owns, brought to the version that it knows.
//!
//! Each file of `db/migrations` is one transaction, in which it is also recorded. A lock makes instances
//! that start together take turns; the later ones find the work done.

use super::StoreError;
use deadpool_postgres::{GenericClient, Object};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_128;

struct Migration {
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($name:literal),* $(,)?) => {
        /// In the order in which they are applied. A file that was released is never changed: its checksum is
        /// recorded.
        const MIGRATIONS: &[Migration] = &[$(Migration {
            name: $name,
            sql: include_str!(concat!("../../../db/migrations/", $name, ".sql")),
        }),*];
    };
}

migrations!["0001_analyze", "0002_days", "0003_views", "0004_logs", "0005_owners"];

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('headwater.migrations.' || current_schema(), 0))";
const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS headwater_migrations (
    name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

impl Migration {
    fn checksum(&self) -> String {
        format!("{:032x}", xxh3_128(self.sql.as_bytes()))
    }
}

/// Applies what is missing; gives the names of what it applied.
pub async fn apply(client: &mut Object) -> Result<Vec<&'static str>, StoreError> {
    let mut applied = Vec::new();
    if pending(&record(&*client).await?, MIGRATIONS, &schema(&*client).await?)?.is_empty() {
        return Ok(applied);
    }
    for migration in MIGRATIONS {
        let failed = |source| StoreError::Migration { name: migration.name.to_owned(), source };
        let transaction = client.transaction().await?;
        transaction.batch_execute(LOCK).await?;
        transaction.batch_execute(CREATE_RECORD).await.map_err(failed)?;
        let schema = schema(&transaction).await?;
        if pending(&record(&transaction).await?, MIGRATIONS, &schema)?.contains(&migration.name) {
            transaction.batch_execute(migration.sql).await.map_err(failed)?;
            let insert = "INSERT INTO headwater_migrations (name, checksum) VALUES ($1, $2)";
            transaction.execute(insert, &[&migration.name, &migration.checksum()]).await.map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
            applied.push(migration.name);
        }
    }
    Ok(applied)
}

/// Fails where [`apply`] would have something to do.
pub async fn verify(client: &Object) -> Result<(), StoreError> {
    let missing = missing(client).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::NotMigrated { schema: schema(client).await?, names: missing.join(", ") })
}

/// The names of those that [`apply`] would apply.
pub async fn missing(client: &Object) -> Result<Vec<&'static str>, StoreError> {
    pending(&record(client).await?, MIGRATIONS, &schema(client).await?)
}

async fn schema(client: &impl GenericClient) -> Result<String, StoreError> {
    Ok(client.query_one("SELECT current_schema()::text", &[]).await?.get(0))
}

/// Checksums by name, as recorded.
async fn record(client: &impl GenericClient) -> Result<BTreeMap<String, String>, StoreError> {
    // Not by the search path, on which a later schema may hold tables of another program.
    let is_there = client
        .query_one("SELECT to_regclass(format('%I.headwater_migrations', current_schema())) IS NOT NULL", &[])
        .await?;
    if !is_there.get::<_, bool>(0) {
        return Ok(BTreeMap::new());
    }
    let rows = client.query("SELECT name, checksum FROM headwater_migrations", &[]).await?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn pending(
    record: &BTreeMap<String, String>,
    known: &[Migration],
    schema: &str,
) -> Result<Vec<&'static str>, StoreError> {
    if let Some(name) = record.keys().find(|name| known.iter().all(|migration| migration.name != name.as_str())) {
        return Err(StoreError::NewerMigration { schema: schema.to_owned(), name: name.clone() });
    }
    let mut pending = Vec::new();
    for migration in known {
        match record.get(migration.name) {
            None => pending.push(migration.name),
            Some(applied) if *applied == migration.checksum() => {}
            Some(applied) => {
                return Err(StoreError::ChangedMigration {
                    name: migration.name.to_owned(),
                    applied: applied.clone(),
                    known: migration.checksum(),
                });
            }
        }
    }
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Migration] = &[Migration { name: "1", sql: "a" }, Migration { name: "2", sql: "b" }];

    fn record(entries: &[(&str, String)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, checksum)| ((*name).to_owned(), checksum.clone())).collect()
    }

    #[test]
    fn what_is_not_recorded_is_pending() {
        assert_eq!(pending(&record(&[]), KNOWN, "s").unwrap(), ["1", "2"]);
        assert_eq!(pending(&record(&[("1", KNOWN[0].checksum())]), KNOWN, "s").unwrap(), ["2"]);
    }

    #[test]
    fn a_changed_or_unknown_migration_is_refused() {
        let error = pending(&record(&[("1", KNOWN[1].checksum())]), KNOWN, "s").unwrap_err();
        assert!(matches!(error, StoreError::ChangedMigration { .. }), "{error}");
        let error = pending(&record(&[("3", KNOWN[1].checksum())]), KNOWN, "s").unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
    }

    #[test]
    fn every_file_is_in_the_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/db/migrations");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let known: Vec<String> = MIGRATIONS.iter().map(|migration| format!("{}.sql", migration.name)).collect();
        assert_eq!(files, known);
    }
}
