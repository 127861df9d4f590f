//! The tables of analyze, out to files in one snapshot and back in by one transaction.

use super::{
    KeepError,
    manifest::{Position, Sink, TablePart},
};
use crate::{
    analyze,
    config::model::{Analyze, Pipeline},
    postgres::{self, PostgresError, quote_ident},
};
use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use std::{collections::BTreeSet, path::Path};
use tokio_postgres::{Client, IsolationLevel, Transaction};

/// In the order in which they can be filled. Those without a column `job` are all of the pipeline's.
fn tables(analyze: &Analyze) -> Vec<String> {
    let mut names: Vec<String> =
        ["analyze_jobs", "analyze_partitions", "late_events", "dead_letters", "moments"].map(str::to_owned).into();
    let outputs: BTreeSet<&String> = analyze.jobs.iter().map(|job| &job.table).collect();
    names.extend(outputs.into_iter().cloned());
    names
}

fn has_job(table: &str) -> bool {
    ["analyze_jobs", "analyze_partitions", "late_events", "dead_letters"].contains(&table)
}

fn job_condition(analyze: &Analyze) -> String {
    let ids: Vec<String> = analyze.jobs.iter().map(|job| postgres::quote_literal(&job.id)).collect();
    format!("job IN ({})", ids.join(", "))
}

async fn connect(pipeline: &Pipeline) -> Result<(Client, &Analyze), KeepError> {
    let nothing = || KeepError::Nothing { pipeline: pipeline.name.clone(), section: "postgres", action: "back up" };
    let (analyze, config) =
        (pipeline.analyze.as_ref().ok_or_else(nothing)?, pipeline.postgres.as_ref().ok_or_else(nothing)?);
    let client = postgres::connect(config).await?;
    if let Some(schema) = &analyze.schema {
        let statement = format!("SET search_path = {}", quote_ident(schema));
        client.batch_execute(&statement).await.map_err(PostgresError::from)?;
    }
    Ok((client, analyze))
}

async fn columns(transaction: &Transaction<'_>, table: &str) -> Result<Vec<String>, PostgresError> {
    let question = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0
                    AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";
    let rows = transaction.query(question, &[&quote_ident(table)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ")
}

/// Tables that do not exist yet are left out: nothing has run.
pub async fn backup(pipeline: &Pipeline, root: &Path) -> Result<(Vec<TablePart>, Vec<Position>), KeepError> {
    let (mut client, analyze) = connect(pipeline).await?;
    let begun = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start();
    let transaction = begun.await.map_err(PostgresError::from)?;
    let (mut parts, mut positions) = (Vec::new(), Vec::new());
    for table in tables(analyze) {
        let columns = columns(&transaction, &table).await?;
        if columns.is_empty() {
            continue;
        }
        let condition = if has_job(&table) { job_condition(analyze) } else { "true".to_owned() };
        let from = format!("FROM {} WHERE {condition}", quote_ident(&table));
        let statement = format!("COPY (SELECT {} {from}) TO STDOUT", list(&columns));
        let stream = transaction.copy_out(&statement).await.map_err(PostgresError::from)?;
        let mut stream = std::pin::pin!(stream);
        let mut sink = Sink::create(root, &format!("postgres/{table}.copy"))?;
        let mut rows = 0;
        while let Some(piece) = stream.try_next().await.map_err(PostgresError::from)? {
            // A line break within a value is escaped.
            rows += memchr::memchr_iter(b'\n', &piece).count() as u64;
            sink.write(&piece)?;
        }
        parts.push(TablePart { columns, rows, file: sink.end()?, table: table.clone() });
        if table == "analyze_partitions" {
            let question = format!("SELECT job, topic, partition, topic_id, replay_offset {from}");
            for row in transaction.query(&question, &[]).await.map_err(PostgresError::from)? {
                positions.push(Position {
                    job: row.get(0),
                    topic: row.get(1),
                    partition: row.get(2),
                    topic_id: row.get(3),
                    replay_offset: row.get(4),
                });
            }
        }
    }
    Ok((parts, positions))
}

/// Tables of the backup in which the pipeline has rows by now, and so goes on from what is there.
pub async fn occupied(pipeline: &Pipeline, parts: &[TablePart]) -> Result<Vec<String>, KeepError> {
    let (mut client, analyze) = connect(pipeline).await?;
    let transaction = client.transaction().await.map_err(PostgresError::from)?;
    let mut found = Vec::new();
    for part in parts.iter().filter(|part| part.table != "moments") {
        if columns(&transaction, &part.table).await?.is_empty() {
            continue;
        }
        let condition = if has_job(&part.table) { job_condition(analyze) } else { "true".to_owned() };
        let question = format!("SELECT EXISTS (SELECT FROM {} WHERE {condition})", quote_ident(&part.table));
        if transaction.query_one(&question, &[]).await.map_err(PostgresError::from)?.get(0) {
            found.push(part.table.clone());
        }
    }
    Ok(found)
}

/// Makes the tables where they are missing, and puts the rows back; what the pipeline has there goes.
pub async fn restore(pipeline: &Pipeline, parts: &[TablePart], root: &Path) -> Result<(), KeepError> {
    analyze::prepare(pipeline).await.map_err(|error| KeepError::Refused(error.to_string()))?;
    let (mut client, analyze) = connect(pipeline).await?;
    let transaction = client.transaction().await.map_err(PostgresError::from)?;
    let run = async |statement: String| transaction.batch_execute(&statement).await.map_err(PostgresError::from);
    for part in parts {
        let (table, columns) = (quote_ident(&part.table), list(&part.columns));
        run(format!("CREATE TEMP TABLE restored ON COMMIT DROP AS SELECT {columns} FROM {table} WHERE false")).await?;
        let copy = format!("COPY restored ({columns}) FROM STDIN");
        let sink = transaction.copy_in::<_, Bytes>(&copy).await.map_err(PostgresError::from)?;
        let mut sink = std::pin::pin!(sink);
        for piece in part.file.pieces(root)? {
            sink.send(Bytes::from(piece?)).await.map_err(PostgresError::from)?;
        }
        let rows = sink.finish().await.map_err(PostgresError::from)?;
        if rows != part.rows {
            return Err(KeepError::Damaged { path: root.join(&part.file.path) });
        }
        let into = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM restored");
        match part.table.as_str() {
            // A leader that is still there finds another epoch, and ends.
            "analyze_jobs" => {
                let set: Vec<String> = part
                    .columns
                    .iter()
                    .map(|column| (quote_ident(column), column))
                    .map(|(name, column)| match column.as_str() {
                        "epoch" => format!("{name} = greatest({table}.epoch, excluded.epoch) + 1"),
                        _ => format!("{name} = excluded.{name}"),
                    })
                    // A backup of before there was one is of a job that had begun at the start of its topics.
                    .chain(
                        (!part.columns.iter().any(|c| c == "windows_from")).then(|| "windows_from = NULL".to_owned()),
                    )
                    .collect();
                run(format!("{into} ON CONFLICT (job) DO UPDATE SET {}", set.join(", "))).await?;
            }
            // Ids say what a moment is about, whoever found it.
            "moments" => run(format!("{into} ON CONFLICT DO NOTHING")).await?,
            name => {
                let condition = if has_job(name) { job_condition(analyze) } else { "true".to_owned() };
                let is_there = format!("SELECT EXISTS (SELECT FROM {table} WHERE {condition})");
                // Deleting asks for a right that analyze itself does not need.
                if transaction.query_one(&is_there, &[]).await.map_err(PostgresError::from)?.get(0) {
                    run(format!("DELETE FROM {table} WHERE {condition}")).await?;
                }
                run(into).await?;
            }
        }
        run("DROP TABLE restored".to_owned()).await?;
    }
    transaction.commit().await.map_err(PostgresError::from)?;
    Ok(())
}
