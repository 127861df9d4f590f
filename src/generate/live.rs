//! Rows of the present: many small transactions, some of them held open while others commit.

use super::{GenerateError, Job, Live, Order, Orders, Progress, Show, add, write_error};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_postgres::{Client, Statement};

/// Transactions held open at the same time.
const LATE_SESSIONS: usize = 32;
/// At most so many transactions a second, each with the rows then due.
const TRANSACTIONS_PER_SECOND: f64 = 100.0;
/// Orders that a status update may choose from.
const RECENT: usize = 20_000;

pub(super) async fn run(job: &Job, live: &Live) -> Result<(), GenerateError> {
    let failed = write_error(job);
    let session = Arc::new(Session::open(job).await?);
    let update = session.client.prepare(&update_sql(&job.target(), live.keep_watermark)).await.map_err(&failed)?;
    let recent: Recent = Arc::default();
    let mut orders = Orders::new(job.seed, job.bad_share);
    let mut late = Late::new(job.clone(), recent.clone());
    let mut due = Due { inserts: 0, late: 0.0, updates: 0.0 };
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / TRANSACTIONS_PER_SECOND));
    let mut logged = Instant::now();
    loop {
        ticks.tick().await;
        if *job.shutdown.borrow() {
            break;
        }
        late.check()?;
        let elapsed = started.elapsed().as_secs_f64();
        let ended = live.seconds.is_some_and(|limit| elapsed >= limit);
        let wanted = (live.seconds.map_or(elapsed, |limit| elapsed.min(limit)) * live.rows_per_second) as u64;
        let wanted = live.rows.map_or(wanted, |limit| wanted.min(limit));
        // After a stall the debt is paid in transactions of a bounded size.
        let rows = wanted.saturating_sub(due.inserts).min(5_000) as usize;
        if rows > 0 {
            let batch: Vec<Order> = (0..rows).map(|_| orders.order()).collect();
            let roll_back = orders.random().chance(live.rollback_share);
            // What is rolled back does not count: the rows asked for are rows that stay.
            if !roll_back {
                due.inserts += rows as u64;
                due.updates += rows as f64 * live.update_share;
            }
            due.late += rows as f64 * live.late_share;
            let hold = Duration::from_millis(1 + orders.random().below(live.late_ms.max(1)));
            if due.late < rows as f64 || !late.try_start(&batch, hold, roll_back) {
                session.insert(&batch, None, roll_back, &job.progress, &recent).await.map_err(&failed)?;
            } else {
                due.late -= rows as f64;
            }
        }
        let updates = due.updates as usize;
        if updates > 0 {
            due.updates -= updates as f64;
            let ids = pick(&recent, updates, orders.random());
            let changed = session.client.execute(&update, &[&ids]).await.map_err(&failed)?;
            let counts = &job.progress.counts;
            add(&counts.updated, changed as usize);
            add(&counts.transactions, 1);
        }
        if job.show != Show::Nothing && logged.elapsed() >= Duration::from_secs(10) {
            logged = Instant::now();
            let report = job.progress.report(started.elapsed());
            tracing::info!(inserted = report.inserted, updated = report.updated, "generating");
        }
        if live.rows.is_some_and(|limit| due.inserts >= limit) || (ended && due.inserts >= wanted) {
            break;
        }
    }
    late.finish().await
}

/// What is owed, counted in rows.
struct Due {
    inserts: u64,
    late: f64,
    updates: f64,
}

type Recent = Arc<Mutex<VecDeque<i32>>>;

fn lock(recent: &Recent) -> std::sync::MutexGuard<'_, VecDeque<i32>> {
    recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn pick(recent: &Recent, count: usize, random: &mut super::Random) -> Vec<i32> {
    let recent = lock(recent);
    if recent.is_empty() {
        return Vec::new();
    }
    (0..count).filter_map(|_| recent.get(random.below(recent.len() as u64) as usize).copied()).collect()
}

/// The next status of some orders; those that are through stay as they are.
fn update_sql(table: &str, keep_watermark: bool) -> String {
    let time = if keep_watermark { "" } else { ", created_at = now() AT TIME ZONE 'UTC'" };
    format!(
        "UPDATE {table} SET order_status = CASE order_status
           WHEN 'PLACED' THEN CASE WHEN order_id % 20 = 0 THEN 'CANCELLED' ELSE 'PREPARING' END
           ELSE 'DELIVERED' END{time}
         WHERE order_id = ANY($1) AND order_status IN ('PLACED', 'PREPARING')"
    )
}

/// A connection with its prepared statement.
struct Session {
    client: Client,
    insert: Statement,
}

impl Session {
    async fn open(job: &Job) -> Result<Session, GenerateError> {
        let client = crate::postgres::connect(&job.postgres).await?;
        let insert = format!(
            "INSERT INTO {} (customer_name, restaurant_name, item, amount, order_status)
             SELECT customer, restaurant, item, amount::numeric, 'PLACED'
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS o (customer, restaurant, item, amount)
             RETURNING order_id",
            job.target()
        );
        let insert = client.prepare(&insert).await.map_err(write_error(job))?;
        Ok(Session { client, insert })
    }

    /// One transaction; with `hold` it stays open for that long before its end.
    async fn insert(
        &self,
        batch: &[Order],
        hold: Option<Duration>,
        roll_back: bool,
        progress: &Progress,
        recent: &Recent,
    ) -> Result<(), tokio_postgres::Error> {
        let customers: Vec<&str> = batch.iter().map(|order| order.customer.as_str()).collect();
        let restaurants: Vec<&str> = batch.iter().map(|order| order.restaurant).collect();
        let items: Vec<&str> = batch.iter().map(|order| order.item).collect();
        let amounts: Vec<String> = batch.iter().map(Order::amount).collect();
        let explicit = hold.is_some() || roll_back;
        if explicit {
            self.client.batch_execute("BEGIN").await?;
        }
        let rows = self.client.query(&self.insert, &[&customers, &restaurants, &items, &amounts]).await?;
        if let Some(hold) = hold {
            tokio::time::sleep(hold).await;
        }
        if explicit {
            self.client.batch_execute(if roll_back { "ROLLBACK" } else { "COMMIT" }).await?;
        }
        let counts = &progress.counts;
        if roll_back {
            add(&counts.rolled_back, batch.len());
            return Ok(());
        }
        add(&counts.inserted, batch.len());
        add(&counts.transactions, 1);
        add(&counts.bad, batch.iter().filter(|order| order.amount_cents < 0).count());
        if hold.is_some() {
            add(&counts.late, batch.len());
        }
        let mut recent = lock(recent);
        recent.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        let surplus = recent.len().saturating_sub(RECENT);
        recent.drain(..surplus);
        Ok(())
    }
}

/// The transactions that are held open, each on a connection of its own.
struct Late {
    job: Job,
    recent: Recent,
    free: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Session>>>,
    tasks: JoinSet<Result<(), GenerateError>>,
}

impl Late {
    fn new(job: Job, recent: Recent) -> Self {
        let free = Arc::new(Semaphore::new(LATE_SESSIONS));
        Late { job, recent, free, idle: Arc::default(), tasks: JoinSet::new() }
    }

    /// Starts a transaction with these rows, unless too many are open.
    fn try_start(&mut self, batch: &[Order], hold: Duration, roll_back: bool) -> bool {
        let Ok(permit) = self.free.clone().try_acquire_owned() else { return false };
        let (job, recent, idle, batch) = (self.job.clone(), self.recent.clone(), self.idle.clone(), batch.to_vec());
        self.tasks.spawn(async move {
            let pooled = idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
            let session = match pooled {
                Some(session) => session,
                None => Session::open(&job).await?,
            };
            session.insert(&batch, Some(hold), roll_back, &job.progress, &recent).await.map_err(write_error(&job))?;
            idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(session);
            drop(permit);
            Ok(())
        });
        true
    }

    /// The error of one that has failed, if any.
    fn check(&mut self) -> Result<(), GenerateError> {
        while let Some(ended) = self.tasks.try_join_next() {
            settle(ended)?;
        }
        Ok(())
    }

    /// Waits until all are through.
    async fn finish(mut self) -> Result<(), GenerateError> {
        while let Some(ended) = self.tasks.join_next().await {
            settle(ended)?;
        }
        Ok(())
    }
}

fn settle(ended: Result<Result<(), GenerateError>, tokio::task::JoinError>) -> Result<(), GenerateError> {
    match ended {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
