//! Which letters a command is about, as its arguments say it.

use super::{
    DlqError,
    filter::{Filter, instant},
};
use crate::clock;
use clap::Args;

#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Only these pipelines (tenants) of the file.
    #[arg(long = "pipeline", value_name = "NAME")]
    pipelines: Vec<String>,
    /// Only records of these topics.
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Only those refused for these reasons.
    #[arg(long = "reason", value_name = "REASON")]
    reasons: Vec<String>,
    /// Only those refused at this time or later: 2025-01-15, 2025-01-15T12:00:00Z, or 90m, 6h, 2d ago.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those refused before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only those that meet these conditions, such as 'day>=2025-01-15 and payload.amount<0'. May be repeated;
    /// all have to be met.
    #[arg(long = "where", value_name = "CONDITIONS")]
    conditions: Vec<String>,
}

impl Selection {
    pub fn filter(&self) -> Result<Filter, DlqError> {
        let now = clock::now_us();
        let mut filter = Filter::default();
        filter.pipelines(&self.pipelines);
        filter.topics(&self.topics);
        filter.reasons(&self.reasons)?;
        if let Some(text) = &self.since {
            filter.since(moment("--since", text, now)?);
        }
        if let Some(text) = &self.until {
            filter.until(moment("--until", text, now)?);
        }
        for text in &self.conditions {
            filter.add(text)?;
        }
        Ok(filter)
    }
}

/// Microseconds since 1970 of a time, or of so long before `now`.
fn moment(flag: &str, text: &str, now: i64) -> Result<i64, DlqError> {
    let ago = || {
        let unit = match text.chars().last()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let count: u32 = text[..text.len() - 1].parse().ok()?;
        Some(now.saturating_sub(i64::from(count) * unit * 1_000_000))
    };
    instant(text).or_else(ago).ok_or_else(|| {
        DlqError::Selection(format!(
            "{flag} takes a time such as 2025-01-15, 2025-01-15T12:00:00Z, or 90m, 6h, 2d ago, not {text:?}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        let now = instant("2025-01-15T12:00:00Z").unwrap();
        for (text, expected) in [
            ("2025-01-15", "2025-01-15T00:00:00Z"),
            ("2025-01-15T11:00:00+01:00", "2025-01-15T10:00:00Z"),
            ("90m", "2025-01-15T10:30:00Z"),
            ("6h", "2025-01-15T06:00:00Z"),
            ("2d", "2025-01-13T12:00:00Z"),
            ("30s", "2025-01-15T11:59:30Z"),
        ] {
            assert_eq!(moment("--since", text, now).unwrap(), instant(expected).unwrap(), "{text}");
        }
        for wrong in ["", "yesterday", "6", "-6h", "6w", "é"] {
            let error = moment("--until", wrong, now).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains("--until takes a time"), "{error}");
        }
    }
}
