//! What replays of dead letters need, which every pipeline has.

use super::{
    claims::{Claims, TopicRole},
    model::Dlq,
    section::Section,
};

/// `id` begins the names that are not given.
pub fn build(root: &Section, id: &str, claims: &mut Claims) -> Dlq {
    let dlq = root.section("dlq");
    let result = Dlq {
        replay_topic: dlq.text("replay_topic").unwrap_or_else(|| format!("{id}-replays")),
        replay_replication: dlq.integer("replay_replication"),
        transactional_id: dlq.text("transactional_id").unwrap_or_else(|| format!("{id}-replay")),
    };
    claims.topic(&dlq, "replay_topic", &result.replay_topic, TopicRole::Replays);
    claims.transactional_id(&dlq, "transactional_id", &result.transactional_id);
    result
}
