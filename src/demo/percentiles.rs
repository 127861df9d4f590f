//! How long things took, in a few figures.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentiles {
    pub p50_ms: i64,
    pub p99_ms: i64,
    pub max_ms: i64,
    pub count: usize,
}

impl Percentiles {
    /// None of no values.
    pub fn of(mut values_ms: Vec<i64>) -> Option<Percentiles> {
        values_ms.sort_unstable();
        let at = |share: f64| values_ms[((values_ms.len() - 1) as f64 * share).round() as usize];
        (!values_ms.is_empty()).then(|| Percentiles {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            count: values_ms.len(),
        })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: i64| ms as f64 / 1_000.0;
        write!(
            f,
            "p50 {:.2} s, p99 {:.2} s, max {:.2} s",
            seconds(self.p50_ms),
            seconds(self.p99_ms),
            seconds(self.max_ms)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let found = Percentiles::of((1..=100).rev().collect()).unwrap();
        assert_eq!((found.p50_ms, found.p99_ms, found.max_ms, found.count), (51, 99, 100, 100));
        assert_eq!(found.to_string(), "p50 0.05 s, p99 0.10 s, max 0.10 s");
        assert_eq!(Percentiles::of(Vec::new()), None);
    }
}
