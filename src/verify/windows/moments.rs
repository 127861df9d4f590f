//! Moments: each there once, about a final window, with that window's value.

use super::{
    compare::FLOAT_ERROR,
    report::{Findings, Kind},
    tables::Moment,
};
use crate::clock::iso;

/// Looks at the moments of one watch, which come by key and window.
pub struct Moments<'a> {
    /// The kind of the moments, and what they watch.
    pub kind: &'a str,
    pub metric: &'a str,
    pub size_ms: i64,
    /// Key and window of the one before.
    before: Option<(String, i64)>,
}

impl<'a> Moments<'a> {
    pub fn new(kind: &'a str, metric: &'a str, size_ms: i64) -> Moments<'a> {
        Moments { kind, metric, size_ms, before: None }
    }

    pub fn look(&mut self, moment: &Moment, findings: &mut Findings) {
        findings.counts.moments += 1;
        let place = format!("moments {} {}", self.kind, iso(moment.start_us));
        let found = (moment.key.clone(), moment.start_us);
        if self.before.as_ref() == Some(&found) {
            let what = format!("is there twice, once more as {}", moment.id);
            findings.add(Kind::Duplicated, moment.key.clone(), place.clone(), what);
        }
        self.before = Some(found);
        let wrong = self.faults(moment, findings);
        if !wrong.is_empty() {
            findings.add(Kind::Differing, moment.key.clone(), place, format!("{}: {}", moment.id, wrong.join("; ")));
        }
    }

    fn faults(&self, moment: &Moment, findings: &mut Findings) -> Vec<String> {
        let mut wrong = Vec::new();
        let end_us = moment.start_us.saturating_add(self.size_ms * 1_000);
        if moment.end_us != end_us {
            wrong.push(format!("window_end is {}, not {}", iso(moment.end_us), iso(end_us)));
        }
        let Some(row) = &moment.row else {
            wrong.push("its window has no row".to_owned());
            return wrong;
        };
        if !row.is_final {
            wrong.push("its window is not final".to_owned());
        }
        let value = row.value.unwrap_or(f64::NAN);
        let is_equal = (value - moment.value).abs() <= FLOAT_ERROR * value.abs().max(moment.value.abs());
        if !is_equal && row.is_revised {
            // It was found before a late event changed the row.
            findings.counts.moments_revised += 1;
        } else if !is_equal {
            let shown = row.value.map_or_else(|| "null".to_owned(), |value| value.to_string());
            wrong.push(format!("{} is {}, its window's is {shown}", self.metric, moment.value));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{report::JobReport, tables::MomentRow},
        *,
    };

    fn moment(key: &str, id: &str) -> Moment {
        let row = MomentRow { end_us: 60_000_000, is_final: true, is_revised: false, value: Some(7.0) };
        Moment {
            id: id.to_owned(),
            key: key.to_owned(),
            start_us: 0,
            end_us: 60_000_000,
            value: 7.0,
            baseline: 1.0,
            score: 9.0,
            row: Some(row),
        }
    }

    fn found(moments: Vec<Moment>) -> JobReport {
        let mut findings = Findings::new(20);
        let mut look = Moments::new("chat_spike", "chat_count", 60_000);
        moments.iter().for_each(|moment| look.look(moment, &mut findings));
        findings.into_report(JobReport::default())
    }

    #[test]
    fn a_moment_is_there_once_and_has_its_windows_value() {
        let report = found(vec![moment("s1", "a"), moment("s2", "b")]);
        assert_eq!((report.counts.moments, report.counts.is_equal(true)), (2, true));
        let report = found(vec![moment("s1", "a"), moment("s1", "b")]);
        assert_eq!((report.counts.duplicated_count, report.counts.differing_count), (1, 0));
        assert!(report.duplicated[0].what.contains("once more as b"));
        let row = |change: fn(&mut MomentRow)| {
            let mut moment = moment("s1", "a");
            moment.row.as_mut().into_iter().for_each(change);
            found(vec![moment])
        };
        assert_eq!(row(|row| row.value = Some(8.0)).differing[0].what, "a: chat_count is 7, its window's is 8");
        assert_eq!(row(|row| row.value = None).counts.differing_count, 1);
        assert_eq!(row(|row| row.is_final = false).counts.differing_count, 1);
        let revised = row(|row| (row.value, row.is_revised) = (Some(8.0), true));
        assert_eq!((revised.counts.differing_count, revised.counts.moments_revised), (0, 1));
        let mut lone = Moment { end_us: 1, ..moment("s1", "a") };
        lone.row = None;
        assert_eq!(
            found(vec![lone]).differing[0].what,
            "a: window_end is 1970-01-01T00:00:00.000001Z, not 1970-01-01T00:01:00Z; its window has no row"
        );
    }
}
