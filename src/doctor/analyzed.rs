//! The tables that analyze owns and writes: migrations, roles and rights, each job's table, who leads it.

use super::{
    finding::{Findings, Section},
    postgres::{OPTIONS, patient},
};
use crate::{
    analyze::inspect::{Inspector, PartitionProgress, Shared, StoreError, fault, output, redeclared},
    config::model::{Analyze, Job, Pipeline, Postgres},
    postgres::quote_ident,
};

/// Where the jobs of a pipeline stand, by their ids, for the look at Kafka.
pub type Positions = Vec<(String, Vec<PartitionProgress>)>;

pub async fn examine(pipeline: &Pipeline, config: &Postgres) -> (Findings, Positions) {
    let (mut findings, mut positions) = (Findings::new(Section::Analyze), Positions::new());
    let Some(analyze) = &pipeline.analyze else { return (findings, positions) };
    let examined = go_on(analyze, config, &mut findings, &mut positions);
    match tokio::time::timeout(super::SECTION_LIMIT, examined).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => findings.failure("answers", &config.db, error.to_string(), error.cure()),
        Err(_) => {
            let message = format!("the answers took longer than {} s", super::SECTION_LIMIT.as_secs());
            findings.failure("answers", &config.db, message, None);
        }
    }
    (findings, positions)
}

async fn go_on(
    analyze: &Analyze,
    config: &Postgres,
    findings: &mut Findings,
    positions: &mut Positions,
) -> Result<(), StoreError> {
    let inspector = Inspector::open(&patient(config), analyze.schema.as_deref(), OPTIONS).await?;
    match &inspector.encoding {
        Ok(()) => findings.ok("encoding", &config.db, "UTF8, which holds every text"),
        Err(error) => findings.failure("encoding", &config.db, error.to_string(), error.cure()),
    }
    let Some(schema) = &inspector.schema else {
        let wanted = quote_ident(analyze.schema.as_deref().unwrap_or(&inspector.user));
        let user = quote_ident(&inspector.user);
        let message = match &analyze.schema {
            Some(schema) => format!("schema {schema} does not exist, or may not be used"),
            None => format!("no schema of {}'s search_path exists and may be used", inspector.user),
        };
        let cure = format!("CREATE SCHEMA IF NOT EXISTS {wanted};\nGRANT USAGE, CREATE ON SCHEMA {wanted} TO {user};");
        findings.failure("schema", &config.db, message, Some(cure));
        findings.not_checked("tables", &config.db, "there is no schema to look in", None);
        return Ok(());
    };
    findings.ok("schema", schema, format!("{} works in it", inspector.user));
    let shared = inspector.shared().await?;
    let is_applied = migrations(analyze, &inspector, schema, &shared, findings);
    if is_applied {
        rights(&inspector, schema, &shared, findings);
    }
    let is_usable = is_applied && shared.gone.is_empty() && shared.forbidden.is_empty();
    for job in &analyze.jobs {
        if let Some(fault) = fault(job) {
            findings.failure("job", &job.name, fault, None);
            continue;
        }
        let table = table(analyze, &inspector, job, is_applied, findings).await?;
        match is_usable {
            true => progress(&inspector, job, table, findings, positions).await?,
            false if is_applied => {
                findings.not_checked("declaration", &job.name, "its progress cannot be read", None);
            }
            false => {}
        }
    }
    Ok(())
}

/// Whether all are applied.
fn migrations(
    analyze: &Analyze,
    inspector: &Inspector,
    schema: &str,
    shared: &Shared,
    findings: &mut Findings,
) -> bool {
    let pending = match &shared.pending {
        Ok(pending) => pending,
        Err(error) => {
            findings.failure("migrations", schema, error.to_string(), error.cure());
            return false;
        }
    };
    let names = pending.join(", ");
    let grant = || {
        let (schema, user) = (quote_ident(schema), quote_ident(&inspector.user));
        Some(format!("GRANT CREATE ON SCHEMA {schema} TO {user};"))
    };
    match (pending.is_empty(), analyze.migrate, shared.may_create) {
        (true, _, _) => findings.ok("migrations", schema, "all are applied"),
        (false, true, true) => findings.ok("migrations", schema, format!("{names} will be applied at the next start")),
        (false, true, false) => {
            let message = format!("{names} cannot be applied: {} may make no tables in it", inspector.user);
            findings.failure("migrations", schema, message, grant());
        }
        (false, false, _) => {
            let message = format!("it lacks {names}, and analyze.migrate is false");
            let cure = "analyze.migrate: true   # or start once with a role that may create tables".to_owned();
            findings.failure("migrations", schema, message, Some(cure));
        }
    }
    pending.is_empty()
}

fn rights(inspector: &Inspector, schema: &str, shared: &Shared, findings: &mut Findings) {
    for name in &shared.gone {
        let message = format!("{name} is gone, although the migration that made it is recorded");
        let cure = "pg_restore it from a backup; db/migrations/ holds the statement that made it".to_owned();
        findings.failure("tables", schema, message, Some(cure));
    }
    if shared.gone.is_empty() {
        findings.ok("tables", schema, "all are there: windows, moments, late events, dead_letters, progress");
    }
    if shared.forbidden.is_empty() {
        findings.ok("grants", &inspector.user, "may do with each what analyze does");
    } else {
        let message = format!("may not do what analyze does with {}", shared.forbidden.join(", "));
        const HISTORY: [&str; 3] = ["dead_letters", "late_events", "moments"];
        let user = quote_ident(&inspector.user);
        // Tables that were made before old rows were deleted from them.
        let cure = match shared.forbidden.iter().all(|name| HISTORY.contains(&name.as_str())) {
            true => format!("GRANT DELETE ON {} TO {user};", shared.forbidden.join(", ")),
            false => format!("GRANT headwater_writer TO {user};"),
        };
        findings.failure("grants", &inspector.user, message, Some(cure));
    }
}

/// The table's full name, where it is there and fits.
async fn table(
    analyze: &Analyze,
    inspector: &Inspector,
    job: &Job,
    is_applied: bool,
    findings: &mut Findings,
) -> Result<Option<String>, StoreError> {
    let output = output(job);
    let mut name = None;
    match inspector.table(&output).await {
        Ok(found) => {
            findings.ok("window table", &job.table, format!("fits job {}", job.name));
            name = Some(found);
        }
        // The migrations may make it.
        Err(StoreError::NoTable { .. }) if !is_applied && analyze.migrate => {
            let message = format!("is not there yet; job {} looks for it after the migrations", job.name);
            findings.not_checked("window table", &job.table, message, None);
        }
        Err(StoreError::NoTable { .. }) if analyze.create_tables => {
            findings.ok("window table", &job.table, format!("is not there yet; job {} will make it", job.name));
        }
        // The function that keeps days comes with the migrations, too.
        Err(StoreError::Table { .. }) if !is_applied => {
            findings.not_checked("window table", &job.table, "the migrations come first", None);
        }
        Err(error @ (StoreError::NoTable { .. } | StoreError::Table { .. })) => {
            let message = match &error {
                StoreError::Table { problems, .. } => format!("does not fit job {}: {problems}", job.name),
                _ => format!("does not exist, and analyze.create_tables is false: job {} needs it", job.name),
            };
            findings.failure("window table", &job.table, message, error.cure());
        }
        Err(error) => return Err(error),
    }
    if is_applied {
        let left = inspector.roles_left(&output).await?;
        match left.as_slice() {
            [] => findings.ok("roles", &job.table, "owner, writer and reader are kept apart"),
            left => {
                let statements: Vec<String> = left.iter().map(|statement| format!("{statement};")).collect();
                let message = "owner, writer and reader are not kept apart, which this role may not change";
                findings.warning("roles", &job.table, message, Some(statements.join("\n")));
            }
        }
    }
    Ok(name)
}

async fn progress(
    inspector: &Inspector,
    job: &Job,
    table: Option<String>,
    findings: &mut Findings,
    positions: &mut Positions,
) -> Result<(), StoreError> {
    let progress = inspector.progress(&job.id).await?;
    if let Some(table) = table {
        match inspector.refusal(&job.id, &table, &progress).await? {
            Some(error) => findings.failure("owner", &job.table, error.to_string(), error.cure()),
            None => findings.ok("owner", &job.table, format!("is written by job {} alone", job.name)),
        }
    }
    if let Some(error) = redeclared(job, &progress) {
        let message = "its windows under way were declared otherwise: declare them as they were, give the job another name and table, or let it begin anew where its topics hold windows whole";
        tracing::debug!("{error}");
        findings.failure("declaration", &job.name, message, error.cure());
    } else {
        findings.ok("declaration", &job.name, "fits the windows that are under way");
    }
    match &progress.holder {
        Some(holder) => findings.ok("leader", &job.name, format!("led by {holder}; others stand by")),
        None => findings.ok("leader", &job.name, "nobody leads now: the next to start will"),
    }
    positions.push((job.id.clone(), progress.partitions));
    Ok(())
}
