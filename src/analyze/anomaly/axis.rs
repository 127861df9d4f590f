//! Where an axis has its ticks, and what they say.

use chrono::{DateTime, Datelike, Timelike};

/// A tick of an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick<At> {
    pub at: At,
    pub label: String,
    /// The day, where a time of day would not say enough.
    pub day: Option<String>,
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const TIME_STEPS_MS: [i64; 23] = [
    1,
    10,
    100,
    1_000,
    5_000,
    15_000,
    30_000,
    MINUTE_MS,
    2 * MINUTE_MS,
    5 * MINUTE_MS,
    10 * MINUTE_MS,
    15 * MINUTE_MS,
    30 * MINUTE_MS,
    HOUR_MS,
    2 * HOUR_MS,
    3 * HOUR_MS,
    6 * HOUR_MS,
    12 * HOUR_MS,
    DAY_MS,
    2 * DAY_MS,
    7 * DAY_MS,
    14 * DAY_MS,
    28 * DAY_MS,
];

/// At most `most` ticks at round times of UTC. Spans of years get ticks at a year's or month's first day.
pub fn time_ticks(from_ms: i64, to_ms: i64, most: usize) -> Vec<Tick<i64>> {
    let span_ms = (to_ms - from_ms).max(1);
    match TIME_STEPS_MS.iter().find(|step_ms| span_ms / **step_ms < most as i64) {
        Some(step_ms) => even_ticks(from_ms, to_ms, *step_ms),
        None => month_ticks(from_ms, to_ms, most),
    }
}

fn even_ticks(from_ms: i64, to_ms: i64, step_ms: i64) -> Vec<Tick<i64>> {
    let first = -(-from_ms).div_euclid(step_ms);
    let mut last_day = None;
    (first..)
        .map(|number| number * step_ms)
        .take_while(|at| *at <= to_ms)
        .filter_map(|at| Some((at, DateTime::from_timestamp_millis(at)?)))
        .map(|(at, time)| {
            let day = format!("{} {}", time.day(), time.format("%b %Y"));
            if step_ms >= DAY_MS {
                return Tick { at, label: format!("{} {}", time.day(), time.format("%b")), day: None };
            }
            let label = match step_ms {
                0..1_000 => time.format("%H:%M:%S%.3f"),
                1_000..MINUTE_MS => time.format("%H:%M:%S"),
                _ => time.format("%H:%M"),
            };
            let is_new = last_day != Some(time.num_days_from_ce());
            last_day = Some(time.num_days_from_ce());
            Tick { at, label: label.to_string(), day: is_new.then_some(day) }
        })
        .collect()
}

fn month_ticks(from_ms: i64, to_ms: i64, most: usize) -> Vec<Tick<i64>> {
    let Some(from) = DateTime::from_timestamp_millis(from_ms) else { return Vec::new() };
    let months = (to_ms - from_ms) / (30 * DAY_MS);
    let steps = [1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1_200, 6_000, 12_000, 60_000, 120_000];
    let step = steps.into_iter().find(|step| months / step < most as i64).unwrap_or(1_200_000);
    let first = i64::from(from.year()) * 12 + i64::from(from.month0());
    (0..)
        .map(|number| (first.div_euclid(step) + number) * step)
        .map_while(|month| {
            let date = from.date_naive().with_day(1)?.with_month0(month.rem_euclid(12) as u32)?;
            let date = date.with_year(i32::try_from(month.div_euclid(12)).ok()?)?;
            Some((date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis(), date))
        })
        .take_while(|(at, _)| *at <= to_ms)
        .filter(|(at, _)| *at >= from_ms)
        .map(|(at, date)| Tick {
            at,
            label: date.format(if step >= 12 { "%Y" } else { "%b %Y" }).to_string(),
            day: None,
        })
        .collect()
}

/// About `most` ticks at 1, 2 or 5 times a power of ten.
pub fn value_ticks(low: f64, high: f64, most: usize) -> Vec<Tick<f64>> {
    let rough = (high - low) / most.max(1) as f64;
    if !(rough > 0.0 && rough.is_finite()) {
        return Vec::new();
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..)
        .map(|number| number as f64 * step)
        .take_while(|at| *at <= high + step * 1e-9)
        .map(|at| Tick { at, label: number(at, step), day: None })
        .collect()
}

/// As many decimals as `resolution` asks for, thousands set apart.
pub fn number(value: f64, resolution: f64) -> String {
    let decimals = (-resolution.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::with_capacity(text.len() + 8);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    format!("{}{grouped}{rest}", if value < 0.0 && !is_zero { "−" } else { "" })
}

/// Hours and minutes with the day, as a moment is labelled.
pub fn moment_label(time_ms: i64, step_ms: i64) -> String {
    let Some(time) = DateTime::from_timestamp_millis(time_ms) else { return String::new() };
    if step_ms >= DAY_MS {
        format!("{} {}", time.day(), time.format("%b %Y"))
    } else if time.second() == 0 {
        format!("{} {}", time.day(), time.format("%b %H:%M"))
    } else {
        format!("{} {}", time.day(), time.format("%b %H:%M:%S"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels<At>(ticks: &[Tick<At>]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn times_are_round_and_name_a_new_day() {
        let from = 1_736_985_600_000 - 5 * HOUR_MS - 7;
        let ticks = time_ticks(from, from + 9 * HOUR_MS, 10);
        assert_eq!(labels(&ticks), ["19:00", "20:00", "21:00", "22:00", "23:00", "00:00", "01:00", "02:00", "03:00"]);
        assert_eq!(ticks[0].day.as_deref(), Some("15 Jan 2025"));
        assert_eq!(ticks[5].day.as_deref(), Some("16 Jan 2025"));
        assert_eq!(ticks.iter().filter(|tick| tick.day.is_some()).count(), 2);
        assert_eq!(labels(&time_ticks(0, 6 * DAY_MS, 8))[..2], ["1 Jan", "2 Jan"]);
        assert_eq!(
            labels(&time_ticks(0, 400 * DAY_MS, 8)),
            ["Jan 1970", "Mar 1970", "May 1970", "Jul 1970", "Sep 1970", "Nov 1970", "Jan 1971"]
        );
        assert_eq!(labels(&time_ticks(0, 366 * 30 * DAY_MS, 8))[..2], ["1970", "1975"]);
    }

    #[test]
    fn values_are_round() {
        assert_eq!(labels(&value_ticks(0.0, 12_345.0, 5)), ["0", "5,000", "10,000"]);
        assert_eq!(labels(&value_ticks(-0.13, 0.21, 5)), ["−0.1", "0.0", "0.1", "0.2"]);
        assert!(value_ticks(1.0, 1.0, 5).is_empty());
        assert!(value_ticks(0.0, f64::INFINITY, 5).is_empty());
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.891, 1.0), "1,234,568");
        assert_eq!(number(-1_234.5, 0.1), "−1,234.5");
        assert_eq!(number(-0.001, 0.1), "0.0");
        assert_eq!(number(999.0, 10.0), "999");
    }
}
