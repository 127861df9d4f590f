//! What holds for every line.

use super::{
    super::{POSITIVE_THRESHOLD, Scratch, compound, words},
    emote_score, score, vader, with_emotes,
};
use proptest::prelude::*;

/// Text of what the rules know and of anything.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[a-zA-Z'!?:;()<>^_.-]{1,12}",
        4 => prop::sample::select(vec![
            "good", "BAD", "not", "never", "so", "this", "but", "no", "or", "least", "at", "kind", "of", "very", "Kappa",
            "PogChamp", "LUL", "D:", "the", "shit", "😂", "❤\u{fe0f}", "isn't", ":)", "\u{212a}ind", "\0", "\u{2003}",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(word, 0..20).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_score_is_within_bounds_and_has_four_decimals(text in text()) {
        for score in [score(&text), emote_score(&text)] {
            prop_assert!((-1.0..=1.0).contains(&score));
            prop_assert_eq!(format!("{score:.4}").parse::<f64>().unwrap().to_bits(), score.to_bits());
        }
    }

    #[test]
    fn a_scratch_that_was_used_before_changes_nothing(texts in prop::collection::vec(text(), 1..6)) {
        let mut scratch = Scratch::default();
        for text in &texts {
            prop_assert_eq!(vader().score(text, &mut scratch).to_bits(), score(text).to_bits());
            prop_assert_eq!(with_emotes().score(text, &mut scratch).to_bits(), emote_score(text).to_bits());
        }
    }

    #[test]
    fn white_space_around_and_between_words_does_not_matter(
        text in text(),
        space in "[\t\r\n \u{1c}\u{a0}\u{2003}\u{3000}]{1,3}",
    ) {
        let spaced: String = text.split(' ').map(|word| format!("{space}{word}")).collect();
        prop_assert_eq!(score(&spaced), score(&text));
    }

    #[test]
    fn as_many_words_are_read_as_python_splits_into(text in text()) {
        let (mut buffer, mut read) = (String::new(), Vec::new());
        words::normalize(&text, &vader().lexicon, &mut buffer);
        words::read(&buffer, &vader().lexicon, &mut read);
        let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
        prop_assert_eq!(read.len() + 1, words::WINDOW + buffer.split(is_space).filter(|word| !word.is_empty()).count());
    }

    #[test]
    fn weighing_finds_the_first_equal_place_as_a_plain_search_does(
        values in prop::collection::vec(prop::sample::select(vec![-3.0, -1.5, -0.75, 0.0, 1.0, 1.5, 2.25, 3.0]), 0..40),
        but in 0_usize..40,
    ) {
        let before_but = but.min(values.len());
        let mut expected = values.clone();
        for at in 0..expected.len() {
            let value = expected[at];
            let first = expected.iter().position(|other| *other == value).unwrap();
            expected[first] *= if first < before_but { 0.5 } else { 1.5 };
        }
        let mut weighed: Vec<_> =
            values.iter().map(|value| compound::Valence { value: *value, is_integer: true }).collect();
        compound::weigh_around_but(&mut weighed, before_but);
        prop_assert_eq!(weighed.iter().map(|valence| valence.value).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_megabyte_of_words_leaves_no_more_than_kilobytes_behind() {
    let mut scratch = Scratch::default();
    vader().score(&"good ".repeat(200_000), &mut scratch);
    vader().score(&"😂".repeat(200_000), &mut scratch);
    let kept = scratch.text.capacity()
        + scratch.words.capacity() * size_of::<super::super::Word>()
        + scratch.valences.capacity() * size_of::<super::super::Valence>();
    assert!(kept <= 3 * super::super::KEPT_BYTES, "{kept} bytes");
}

/// With a search from the start for each of a hundred thousand different places this would take minutes.
#[test]
fn a_hundred_thousand_words_around_a_but_are_weighed() {
    let line = format!("{} but {}", "good bad GREAT ".repeat(60_000), "ugly very nice ".repeat(60_000));
    assert!(score(&line).abs() <= 1.0);
}

#[test]
fn one_analyzer_serves_many_threads() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(vader());
    let scores: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| score("VADER is smart"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(scores, [0.4019; 4]);
}

#[test]
fn the_threshold_is_that_of_the_publication() {
    assert_eq!(POSITIVE_THRESHOLD, 0.05);
}
