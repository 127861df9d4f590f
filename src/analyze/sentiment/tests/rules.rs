//! One rule at a time, on lines that the authors published and on values that their program gives.

use super::{emote_score, score};

#[track_caller]
fn assert_scores<const N: usize>(lines: [(&str, f64); N]) {
    for (line, expected) in lines {
        assert_eq!(score(line), expected, "{line:?}");
        assert_eq!(emote_score(line), expected, "{line:?} with emotes");
    }
}

#[test]
fn the_published_examples() {
    assert_scores([
        ("VADER is smart, handsome, and funny.", 0.8316),
        ("VADER is smart, handsome, and funny!", 0.8439),
        ("VADER is very smart, handsome, and funny.", 0.8545),
        ("VADER is VERY SMART, handsome, and FUNNY.", 0.9227),
        ("VADER is VERY SMART, handsome, and FUNNY!!!", 0.9342),
        ("VADER is VERY SMART, uber handsome, and FRIGGIN FUNNY!!!", 0.9469),
        ("VADER is not smart, handsome, nor funny.", -0.7424),
        ("The book was good.", 0.4404),
        ("At least it isn't a horrible book.", 0.431),
        ("The book was only kind of good.", 0.3832),
        ("The plot was good, but the characters are uncompelling and the dialog is not great.", -0.7042),
        ("Today SUX!", -0.5461),
        ("Today only kinda sux! But I'll get by, lol", 0.5249),
        ("Make sure you :) or :D today!", 0.8633),
        ("Catch utf-8 emoji such as 💘 and 💋 and 😁", 0.875),
        ("Not bad at all", 0.431),
    ]);
}

#[test]
fn nothing_to_score_is_neutral() {
    assert_scores([
        ("", 0.0),
        (" \t\u{3000}", 0.0),
        ("it is a stream", 0.0),
        ("!!!", 0.0),
        ("\0", 0.0),
        ("\u{301}", 0.0),
    ]);
}

#[test]
fn boosters_strengthen_and_dampeners_weaken_less_with_distance() {
    assert_scores([
        ("it was good", 0.4404),
        ("it was very good", 0.4927),
        ("very it good", 0.4902),
        ("very was it good", 0.4877),
        ("it was very really good", 0.5379),
        ("somewhat good", 0.3832),
        ("somewhat bad", -0.4951),
        ("extremely bad", -0.5849),
        // The booster reaches past words of the lexicon.
        ("it was very nice good", 0.7408),
        ("fucking good", 0.4927),
    ]);
}

#[test]
fn capitals_emphasise_a_word_and_a_booster_where_not_all_is_capitals() {
    assert_scores([
        ("GOOD", 0.4404),
        ("GOOD it", 0.5622),
        ("GOOD IT", 0.4404),
        ("good IT", 0.4404),
        ("BAD it", -0.6408),
        ("it was VERY good", 0.6028),
        ("INCREDIBLY good", 0.6028),
        ("it's a somewhat bad BAD day", -0.7999),
        ("GOOD 1", 0.5622),
        ("GOOD Ⓐ", 0.4404),
    ]);
}

#[test]
fn negations_reach_three_words() {
    assert_scores([
        ("not good", -0.3412),
        ("not it good", -0.3412),
        ("not it was good", -0.3412),
        ("not it was the good", 0.4404),
        ("wouldn't it be good", -0.3412),
        ("xn'ty good", -0.3412),
        ("XN'TY good", -0.3412),
        ("nice not good", 0.1012),
        ("this is not the bad game", 0.431),
    ]);
}

#[test]
fn never_so_strengthens_and_without_doubt_does_nothing() {
    assert_scores([
        ("never good", -0.3412),
        ("never so good", 0.5777),
        ("never this good", 0.5228),
        ("never this very good", 0.5777),
        ("it is very so good", 0.6236),
        ("it is so very good", 0.5379),
        ("without good", -0.3412),
        ("without doubt good", 0.6136),
        ("without a doubt good", 0.6136),
    ]);
}

#[test]
fn no_negates_the_lexicon_words_after_it() {
    assert_scores([
        ("no", -0.296),
        ("no good", -0.3412),
        ("no it good", -0.5583),
        ("no fun or good", -0.6259),
        ("no fun and good", 0.0511),
        ("NO it GOOD", -0.7246),
    ]);
}

#[test]
fn least_negates_but_for_at_least_and_very_least() {
    assert_scores([
        ("least good", -0.3412),
        ("the least good", -0.3412),
        ("at least good", 0.4404),
        ("very least good", 0.4902),
    ]);
}

#[test]
fn what_follows_but_counts_more() {
    assert_scores([
        ("good but bad", -0.5859),
        ("good but", 0.2382),
        ("but good", 0.5927),
        ("bad but good but good", 0.7543),
        // The first `good` is weighed, and then the second is the first.
        ("good good but bad", -0.431),
        ("good fun good but good", 0.836),
    ]);
}

#[test]
fn exclamation_and_question_marks_add_to_a_feeling_that_is_there() {
    assert_scores([
        ("good!", 0.4926),
        ("good!!!!", 0.6209),
        ("good!!!!!", 0.6209),
        ("good?", 0.4404),
        ("good??", 0.504),
        ("good???", 0.533),
        ("good????", 0.594),
        ("good bad!", -0.2244),
        ("bad!?!?", -0.6645),
        ("so!", 0.0),
    ]);
}

#[test]
fn idioms_count_where_three_words_precede() {
    assert_scores([
        ("the shit", -0.5574),
        ("this is the shit", 0.6124),
        ("that was the bomb", 0.6124),
        ("what a bad ass game", -0.25),
        ("it was a bus stop", 0.0),
        ("oh and yeah right sure", -0.2023),
        ("it is the kiss of death", -0.6124),
        ("this is to die for", -0.5994),
        ("with my beating heart love", 0.7906),
    ]);
}

#[test]
fn kind_of_and_its_like_dampen() {
    assert_scores([
        ("kind of good", 0.4404),
        ("it is kind of good", 0.3832),
        ("he was sort of good", 0.3832),
        ("it is just enough good", 0.3832),
        ("kind good", 0.743),
    ]);
}

#[test]
fn punctuation_is_taken_off_unless_an_emoticon_could_be_left() {
    assert_scores([
        ("\"good\"", 0.4404),
        ("((good))", 0.4404),
        ("good-bad", 0.0),
        ("ok.", 0.0),
        (":)", 0.4588),
        (":).", 0.0),
        (":D", 0.5106),
        ("</3", -0.6124),
        ("good\u{a0}bad", -0.1531),
        ("good\0", 0.0),
        ("\u{212a}ind", 0.5267),
    ]);
}

#[test]
fn emoji_are_scored_by_their_descriptions() {
    assert_scores([
        ("😂", 0.4404),
        ("😂 good", 0.7003),
        ("good😂", 0.7003),
        // `tears of joygood`
        ("😂good", -0.2263),
        ("❤", 0.6369),
        // The variation selector is no space, so the word is `heart\u{fe0f}`.
        ("❤\u{fe0f}", 0.0),
        // `person gesturing NO` has capitals, `ON! arrow` an exclamation mark.
        ("🙅", -0.4466),
        ("it is good 🔛", 0.4926),
    ]);
}

/// The score of a line whose valences add up to this.
fn of_sum(sum: f64) -> f64 {
    format!("{:.4}", sum / (sum * sum + 15.0).sqrt()).parse().unwrap()
}

#[test]
fn an_emote_is_scored_as_it_is_written() {
    for (line, sum) in [
        ("PogChamp", 3.0),
        ("it is PogChamp here", 3.0),
        ("BibleThump", -1.8),
        ("pogchamp", 0.0),
        ("POGCHAMP", 0.0),
        ("PogChampion", 0.0),
        ("(PogChamp),", 3.0),
        ("GG", 1.8),
        ("PogChamp good", 3.0 + 1.9),
        ("PogChamp!", 3.0 + 0.292),
        ("EZ!", 1.5 + 0.292),
        ("PogChamp😂", 3.0 + 1.9),
        // In VADER's lexicon `d:` is glad; the emote is aghast.
        ("D:", -1.8),
    ] {
        assert_eq!(emote_score(line), of_sum(sum), "{line:?}");
    }
    assert_eq!(score("PogChamp BibleThump LUL"), 0.0);
    assert_eq!(score("D:"), of_sum(1.2));
}

#[test]
fn emotes_are_boosted_and_negated_as_words_are() {
    for (line, sum) in [
        ("very PogChamp", 3.0 + 0.293),
        ("not PogChamp", 3.0 * -0.74),
        ("no PogChamp", 3.0 * -0.74),
        ("PogChamp but BibleThump", 3.0 * 0.5 - 1.8 * 1.5),
        // As behind a word of the lexicon, `very` reaches past the emote.
        ("very LUL good", 2.0 + 0.293 + 1.9 + 0.293 * 0.95),
    ] {
        assert_eq!(emote_score(line), of_sum(sum), "{line:?}");
    }
}

#[test]
fn capitals_of_an_emote_are_its_name() {
    for (line, sum) in [
        ("KEKW", 2.4),
        ("that was KEKW", 2.4),
        // Neither do emotes make other capitals an emphasis, nor hide it.
        ("GOOD Sadge", 1.9 - 2.0),
        ("GOOD LUL", 1.9 + 2.0),
        ("GOOD it LUL", 1.9 + 0.733 + 2.0),
        ("good KEKW", 1.9 + 2.4),
    ] {
        assert_eq!(emote_score(line), of_sum(sum), "{line:?}");
    }
}

#[test]
fn an_emote_of_irony_means_nothing() {
    for (line, sum) in [("Kappa", 0.0), ("so Kappa", 0.0), ("so Kappa good", 1.9 + 0.293 * 0.95), ("GOOD Kappa", 1.9)] {
        assert_eq!(emote_score(line), of_sum(sum), "{line:?}");
    }
}
