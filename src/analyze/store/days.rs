//! Day partitions of the output table: made ahead of time and for the days of a flush, dropped with age.
//!
//! Always outside of the flush's transaction, and never in its way: where a lock is not to be had at once
//! the rows go to the default partition, and the next attempt moves them.

use super::StoreError;
use crate::{
    postgres::{agreed_now_us, pool::Pool},
    record::time::MICROS_PER_DAY,
};
use std::collections::{BTreeSet, HashMap, HashSet};

const DAY_MS: i64 = 86_400_000;
/// Partitions made ahead, beside today's.
const AHEAD_DAYS: i64 = 2;
/// Without a retention, older days have no partitions of their own. It bounds how many a producer with a
/// broken clock can cause.
const OLDEST_DAYS: i64 = 3_650;
/// Readers of the table wait behind us for so long at most.
const LOCK_TIMEOUT_MS: u32 = 200;
const RETRY_MS: i64 = 10_000;
const UPKEEP_MS: i64 = 600_000;

pub struct Days {
    /// Quoted name of the output table; `None` where its partitions are not ours to keep.
    table: Option<String>,
    retention_days: Option<u32>,
    /// Days since 1970 that have a partition.
    present: HashSet<i64>,
    /// When to try again, by day.
    postponed: HashMap<i64, i64>,
    next_upkeep_ms: i64,
}

impl Days {
    pub fn new(table: Option<String>, retention_days: Option<u32>) -> Days {
        let (present, postponed) = (HashSet::new(), HashMap::new());
        Days { table, retention_days, present, postponed, next_upkeep_ms: i64::MIN }
    }

    /// Makes partitions for the days of rows that are about to be written.
    pub async fn cover(&mut self, pool: &Pool, starts_ms: impl Iterator<Item = i64>, now_ms: i64) {
        let days: BTreeSet<i64> = starts_ms.map(|start_ms| start_ms.div_euclid(DAY_MS)).collect();
        self.make(pool, days, now_ms).await;
    }

    /// Makes the partitions of the coming days and drops those beyond the retention. Does nothing unless it
    /// is time.
    pub async fn keep(&mut self, pool: &Pool, now_ms: i64) {
        if now_ms < self.next_upkeep_ms {
            return;
        }
        self.next_upkeep_ms = now_ms + UPKEEP_MS;
        let today = now_ms.div_euclid(DAY_MS);
        self.make(pool, (today..=today + AHEAD_DAYS).collect(), now_ms).await;
        if !self.postponed.is_empty() {
            self.next_upkeep_ms = now_ms + RETRY_MS;
        }
        if let (Some(table), Some(days)) = (self.table.clone(), self.retention_days)
            && let Err(error) = self.drop_old(pool, &table, days, now_ms).await
        {
            tracing::warn!(table, "old partitions stay for now: {error}");
            self.next_upkeep_ms = now_ms + RETRY_MS;
        }
    }

    async fn drop_old(&mut self, pool: &Pool, table: &str, days: u32, now_ms: i64) -> Result<(), StoreError> {
        let now_us = agreed_now_us(&*pool.get().await?, now_ms.saturating_mul(1_000)).await?;
        let oldest = now_us.div_euclid(MICROS_PER_DAY) - i64::from(days);
        self.present.retain(|day| *day >= oldest);
        drop_before(pool, table, oldest).await
    }

    fn oldest_kept(&self, today: i64) -> Option<i64> {
        self.retention_days.map(|days| today - i64::from(days))
    }

    /// Whether the day gets a partition of its own, rather than the default one.
    fn is_near(&self, day: i64, today: i64) -> bool {
        let oldest = self.oldest_kept(today).unwrap_or(today - OLDEST_DAYS);
        (oldest..=today + AHEAD_DAYS).contains(&day)
    }

    async fn make(&mut self, pool: &Pool, days: BTreeSet<i64>, now_ms: i64) {
        let Some(table) = self.table.clone() else { return };
        let today = now_ms.div_euclid(DAY_MS);
        for day in days {
            let is_postponed = self.postponed.get(&day).is_some_and(|due_ms| now_ms < *due_ms);
            if !self.is_near(day, today) || self.present.contains(&day) || is_postponed {
                continue;
            }
            match add(pool, &table, day).await {
                Ok(()) => {
                    self.present.insert(day);
                    self.postponed.remove(&day);
                }
                Err(error) => {
                    tracing::warn!(
                        table,
                        day,
                        "rows of this day (since 1970) go to the default partition for now: {error}"
                    );
                    self.postponed.insert(day, now_ms + RETRY_MS);
                }
            }
        }
    }
}

/// A lock that is not to be had is as good a reason as a server that is away: the flush will tell.
async fn add(pool: &Pool, table: &str, day: i64) -> Result<(), StoreError> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")).await?;
    let day = i32::try_from(day).unwrap_or(i32::MAX);
    transaction
        .execute("SELECT headwater_add_day(to_regclass($1), '1970-01-01'::date + $2::int4)", &[&table, &day])
        .await?;
    Ok(transaction.commit().await?)
}

async fn drop_before(pool: &Pool, table: &str, oldest: i64) -> Result<(), StoreError> {
    let mut client = pool.get().await?;
    let oldest = i32::try_from(oldest).unwrap_or(i32::MIN);
    loop {
        let transaction = client.transaction().await?;
        transaction.batch_execute(&format!("SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")).await?;
        let statement =
            "SELECT headwater_drop_day(to_regclass($1), ('1970-01-01'::date + $2::int4)::timestamp AT TIME ZONE 'UTC')";
        let dropped: Option<String> = transaction.query_one(statement, &[&table, &oldest]).await?.get(0);
        transaction.commit().await?;
        match dropped {
            Some(name) => tracing::info!(table, "dropped partition {name}, which is beyond the retention"),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_far_from_today_have_no_partition() {
        let today = 20_000;
        let kept = Days::new(Some("t".to_owned()), Some(30));
        let near: Vec<i64> = (19_960..20_010).filter(|day| kept.is_near(*day, today)).collect();
        assert_eq!((near[0], near[near.len() - 1]), (19_970, 20_002));
        let unlimited = Days::new(Some("t".to_owned()), None);
        assert!(unlimited.is_near(today - 3_650, today) && !unlimited.is_near(today - 3_651, today));
        for odd in [-719_162, 0, 2_932_896, i64::MIN / DAY_MS] {
            assert!(!unlimited.is_near(odd, today), "{odd}");
        }
    }
}
