//! Rows of the past, by COPY.

use super::{Bulk, GenerateError, Job, Orders, add, shown::Shown, write_error};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::SinkExt;
use std::{fmt::Write, pin::pin};

const PIECE_BYTES: usize = 256 * 1024;

pub(super) async fn run(job: &Job, bulk: &Bulk) -> Result<(), GenerateError> {
    let client = crate::postgres::connect(&job.postgres).await?;
    let copy = format!(
        "COPY {} (customer_name, restaurant_name, item, amount, order_status, created_at) FROM STDIN",
        job.target()
    );
    let failed = write_error(job);
    let mut orders = Orders::new(job.seed, job.bad_share);
    let times = Times { end: Utc::now(), days: bulk.days, rows: bulk.rows };
    let mut shown = Shown::new(job.show, bulk.rows, "rows");
    let mut row = 0;
    while row < bulk.rows && !*job.shutdown.borrow() {
        let end = (row + bulk.transaction_rows).min(bulk.rows);
        let (first, mut bad) = (row, 0);
        let mut sink = pin!(client.copy_in::<_, Bytes>(&copy).await.map_err(&failed)?);
        let mut piece = BytesMut::with_capacity(PIECE_BYTES + 1_024);
        while row < end {
            let order = orders.order();
            bad += usize::from(order.amount_cents < 0);
            let (amount, status) = (order.amount(), orders.past_status().as_str());
            let at = times.of(row, orders.random().unit());
            // The lists of names hold no character that COPY's text form would have to escape.
            let _ = writeln!(
                piece,
                "{}\t{}\t{}\t{amount}\t{status}\t{}",
                order.customer,
                order.restaurant,
                order.item,
                at.format("%F %T%.6f")
            );
            row += 1;
            if piece.len() >= PIECE_BYTES {
                sink.feed(piece.split().freeze()).await.map_err(&failed)?;
                shown.at(row);
            }
        }
        sink.send(piece.freeze()).await.map_err(&failed)?;
        sink.finish().await.map_err(&failed)?;
        let counts = &job.progress.counts;
        add(&counts.inserted, (row - first) as usize);
        add(&counts.bad, bad);
        add(&counts.transactions, 1);
        shown.at(row);
    }
    shown.end();
    Ok(())
}

/// When the n-th of all rows was placed: in order, with a little jitter, the last one now.
struct Times {
    end: DateTime<Utc>,
    days: u32,
    rows: u64,
}

impl Times {
    fn of(&self, row: u64, jitter: f64) -> DateTime<Utc> {
        let span = f64::from(self.days) * 86_400e6;
        // Back from the end, so that no row is from the future.
        let back = span * (1.0 - row as f64 / self.rows.max(1) as f64) + jitter * 30e6 * f64::from(self.days.min(1));
        self.end - chrono::Duration::microseconds(back as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_run_over_the_days_and_never_into_the_future() {
        let end = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let times = Times { end, days: 10, rows: 1_000 };
        assert!((times.of(0, 0.5) - (end - chrono::Duration::days(10))).num_seconds().abs() <= 30);
        assert!((0..1_000).all(|row| times.of(row, 0.0) <= end));
        assert_eq!(Times { end, days: 0, rows: 5 }.of(2, 0.9), end);
    }
}
