//! The known name that a misspelt one resembles most.

/// The one of `known` that is nearest to `name`, if any is near enough to be meant.
pub fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let lower = name.to_lowercase();
    let score = |candidate: &str| {
        let mut score = strsim::normalized_damerau_levenshtein(&lower, &candidate.to_lowercase());
        // `poll_interval` for `poll_interval_ms`, `location` for `checkpoint_location`.
        let shorter = lower.len().min(candidate.len());
        if shorter >= 4
            && (candidate.starts_with(&lower) || candidate.ends_with(&lower) || lower.starts_with(candidate))
        {
            score = score.max(0.75);
        }
        score
    };
    known
        .map(|candidate| (score(&candidate), candidate))
        .filter(|(score, _)| *score >= NEAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
        .map(|(_, candidate)| candidate)
}

/// Share of a name that must agree; below it a suggestion would be a guess.
const NEAR_ENOUGH: f64 = 0.6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resemblance() {
        let known = || ["topic", "brokers", "poll_interval_ms", "create_topics"].map(str::to_owned).into_iter();
        assert_eq!(nearest("borkers", known()).as_deref(), Some("brokers"));
        assert_eq!(nearest("Topics", known()).as_deref(), Some("topic"));
        assert_eq!(nearest("poll_interval", known()).as_deref(), Some("poll_interval_ms"));
        assert_eq!(nearest("zzz", known()), None);
    }
}
