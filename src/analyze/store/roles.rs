//! Who owns the tables, who writes them, who reads them.
//!
//! Three roles without login, which a cluster has once for all its databases: `headwater_owner` owns,
//! `headwater_writer` may do what analyze does and no more, `headwater_reader` may select. Where the
//! connecting role may not make or grant them, everything works all the same, owned by that role, and
//! the statements that are left are told.

use super::{StoreError, table::Output};
use crate::postgres::{PostgresError, chain};
use deadpool_postgres::{GenericClient, Object};
use tokio_postgres::error::SqlState;

const ROLES: &[&str] = &["headwater_owner", "headwater_writer", "headwater_reader"];

/// What the writer may do. The reader may select from all of these.
const RELATIONS: &[(&str, &str)] = &[
    ("headwater_migrations", "SELECT"),
    ("analyze_jobs", "SELECT, INSERT, UPDATE"),
    ("analyze_partitions", "SELECT, INSERT, UPDATE"),
    ("chat_summary_minute", OUTPUT),
    ("moments", "SELECT, INSERT, DELETE"),
    ("late_events", "SELECT, INSERT, UPDATE, DELETE"),
    ("dead_letters", "SELECT, INSERT, DELETE"),
    ("chat_latest", "SELECT"),
    ("chat_last_hour", "SELECT"),
    ("chat_top_emotes_hour", "SELECT"),
    ("moments_today", "SELECT"),
];
const OUTPUT: &str = "SELECT, INSERT, UPDATE";

/// Attempts against other databases of the cluster that change the same roles at the same moment.
const ATTEMPTS: u32 = 5;

/// Does what is missing, as far as the role may. Gives the statements that it may not run.
pub async fn apply(client: &mut Object, output: &Output) -> Result<Vec<String>, StoreError> {
    let mut attempt = 1;
    loop {
        match attempt_once(client, output).await {
            Err(StoreError::Postgres(PostgresError::Query(error))) if attempt < ATTEMPTS && is_race(&error) => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// "tuple concurrently updated" has no code of its own; a role made meanwhile has two.
fn is_race(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::INTERNAL_ERROR, SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION].contains(code)
            || super::error::is_lock_conflict(error)
    })
}

async fn attempt_once(client: &mut Object, output: &Output) -> Result<Vec<String>, StoreError> {
    if missing(&*client, output).await?.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = client.transaction().await?;
    // Changing an owner locks the table; whoever reads it for long shall not stop the start.
    transaction
        .batch_execute(
            "SET LOCAL lock_timeout = '5s';
             SELECT pg_advisory_xact_lock(hashtextextended('headwater.migrations.' || current_schema(), 0))",
        )
        .await?;
    for statement in missing(&transaction, output).await? {
        let savepoint = transaction.transaction().await?;
        match savepoint.batch_execute(&statement).await {
            Ok(()) => savepoint.commit().await?,
            Err(error) if is_refusal(&error) => {
                tracing::debug!("{statement}: {}", chain(&error));
                savepoint.rollback().await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Asked again, because a GRANT without the right to it is a warning and no error.
    let left = missing(&transaction, output).await?;
    transaction.commit().await?;
    Ok(left)
}

/// Not permitted, or about a role that could not be made.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::UNDEFINED_OBJECT, SqlState::INVALID_GRANT_OPERATION].contains(code)
    })
}

/// The statements whose effect the catalogue does not show yet, in the order in which to run them.
pub async fn missing(client: &impl GenericClient, output: &Output) -> Result<Vec<String>, StoreError> {
    let present: Vec<String> = client
        .query("SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1)", &[&ROLES])
        .await?
        .into_iter()
        .map(|row| row.get(0))
        .collect();
    let has_all = present.len() == ROLES.len();
    let mut statements: Vec<String> = ROLES
        .iter()
        .filter(|role| !present.iter().any(|name| name == *role))
        .map(|role| format!("CREATE ROLE {role} NOLOGIN"))
        .collect();
    let mut names: Vec<String> = RELATIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut rights: Vec<&str> = RELATIONS.iter().map(|(_, rights)| *rights).collect();
    if output.schema.is_none() && !names.contains(&output.table) {
        names.push(output.table.clone());
        rights.push(OUTPUT);
    }
    // Whoever owns a table that is not ours to give keeps it: a table of the user's own is left alone.
    let rows = client.query(MISSING, &[&has_all, &names, &rights]).await?;
    statements.extend(rows.into_iter().map(|row| row.get::<_, String>(0)));
    Ok(statements)
}

/// Of the tables and functions that the migrations made: those that are gone, and those that the connected
/// role may not use as analyze does.
pub async fn lacking(client: &impl GenericClient) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let names: Vec<&str> = RELATIONS.iter().map(|(name, _)| *name).collect();
    let rights: Vec<&str> = RELATIONS.iter().map(|(_, rights)| *rights).collect();
    let (mut gone, mut forbidden) = (Vec::new(), Vec::new());
    for row in client.query(LACKING, &[&names, &rights]).await? {
        let lacking: &mut Vec<String> = if row.get(1) { &mut forbidden } else { &mut gone };
        lacking.push(row.get(0));
    }
    Ok((gone, forbidden))
}

/// Name, and whether it is there.
const LACKING: &str = "
SELECT name, is_there FROM (
    SELECT listed.name, c.oid IS NOT NULL AS is_there, EXISTS (
        SELECT FROM unnest(string_to_array(listed.rights, ', ')) AS privilege
        WHERE NOT has_table_privilege(c.oid, privilege)) AS is_lacking
    FROM unnest($1::text[], $2::text[]) AS listed(name, rights)
    LEFT JOIN pg_class c ON c.relname = listed.name AND c.relnamespace = current_schema()::regnamespace
  UNION ALL
    SELECT listed.name, p.oid IS NOT NULL, NOT has_function_privilege(p.oid, 'EXECUTE')
    FROM unnest(ARRAY['headwater_add_day', 'headwater_drop_day']) AS listed(name)
    LEFT JOIN pg_proc p ON p.proname = listed.name AND p.pronamespace = current_schema()::regnamespace
) AS found WHERE NOT is_there OR is_lacking ORDER BY name";

/// `$1`: whether all roles are there, so that their rights can be asked for. `CASE` keeps the server from
/// asking otherwise.
const MISSING: &str = "
WITH here AS (SELECT n.oid, quote_ident(n.nspname) AS name FROM pg_namespace n WHERE n.nspname = current_schema()),
relations AS (
    SELECT c.oid, c.relkind, c.relowner, format('%s.%I', here.name, c.relname) AS name, listed.rights
    FROM here, unnest($2::text[], $3::text[]) AS listed(name, rights)
    JOIN pg_class c ON c.relname = listed.name
    WHERE c.relnamespace = here.oid
      AND (pg_has_role(c.relowner, 'USAGE') OR c.relowner = (SELECT oid FROM pg_roles WHERE rolname = 'headwater_owner'))
),
owned AS (
    SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END || ' ' || name AS what, oid, relowner AS owner, 1 AS place FROM relations
    UNION ALL
    SELECT format('TABLE %I.%I', n.nspname, c.relname), c.oid, c.relowner, 2
    FROM relations r JOIN pg_inherits i ON i.inhparent = r.oid JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    UNION ALL
    SELECT format('FUNCTION %s.%I(%s)', here.name, p.proname, pg_get_function_identity_arguments(p.oid)), p.oid, p.proowner, 3
    FROM here JOIN pg_proc p ON p.pronamespace = here.oid WHERE p.proname IN ('headwater_add_day', 'headwater_drop_day')
)
SELECT statement FROM (
    SELECT 1 AS step, format('GRANT headwater_owner TO %I', current_user) AS statement
    WHERE CASE WHEN $1 THEN NOT pg_has_role(current_user, (SELECT oid FROM pg_roles WHERE rolname = 'headwater_owner'), 'USAGE')
               ELSE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) END
  UNION ALL
    SELECT 2, format('GRANT USAGE, CREATE ON SCHEMA %s TO headwater_owner', name) FROM here
    WHERE CASE WHEN $1 THEN NOT (has_schema_privilege('headwater_owner', oid, 'USAGE') AND has_schema_privilege('headwater_owner', oid, 'CREATE')) ELSE true END
  UNION ALL
    SELECT 2, format('GRANT USAGE ON SCHEMA %s TO %s', name, role) FROM here, unnest(ARRAY['headwater_writer', 'headwater_reader']) AS role
    WHERE CASE WHEN $1 THEN NOT has_schema_privilege(role, oid, 'USAGE') ELSE true END
  UNION ALL
    SELECT 2 + place, format('ALTER %s OWNER TO headwater_owner', what) FROM owned
    WHERE owner IS DISTINCT FROM (SELECT oid FROM pg_roles WHERE rolname = 'headwater_owner')
  UNION ALL
    SELECT 6, format('GRANT SELECT ON %s TO headwater_reader', name) FROM relations
    WHERE CASE WHEN $1 THEN NOT has_table_privilege('headwater_reader', oid, 'SELECT') ELSE true END
  UNION ALL
    SELECT 6, format('GRANT %s ON %s TO headwater_writer', rights, name) FROM relations
    WHERE CASE WHEN $1 THEN EXISTS (SELECT FROM unnest(string_to_array(rights, ', ')) AS privilege
        WHERE NOT has_table_privilege('headwater_writer', oid, privilege)) ELSE true END
  UNION ALL
    SELECT 7, format('GRANT EXECUTE ON %s TO headwater_writer', what) FROM owned
    WHERE place = 3 AND CASE WHEN $1 THEN NOT has_function_privilege('headwater_writer', oid, 'EXECUTE') ELSE true END
  UNION ALL
    -- So that the partitions made later can be read by name too.
    SELECT 8, format('ALTER DEFAULT PRIVILEGES FOR ROLE headwater_owner IN SCHEMA %s GRANT SELECT ON TABLES TO headwater_reader', name)
    FROM here WHERE NOT EXISTS (SELECT FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
        WHERE d.defaclnamespace = here.oid AND d.defaclobjtype = 'r' AND r.rolname = 'headwater_owner')
) AS missing ORDER BY step, statement";
