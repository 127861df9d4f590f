//! The embedded files are what they say they are.

use super::{
    super::{
        emoji::Emojis,
        lexicon,
        table::{Key, Table},
    },
    emote_score, score,
};
use openssl::sha::sha256;

#[test]
fn the_lexicons_are_those_of_vader_sentiment_3_3_2_byte_for_byte() {
    let hash = |text: &str| sha256(text.as_bytes()).map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(hash(lexicon::VADER), "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5");
    assert_eq!(hash(lexicon::EMOJI), "b8d54223ae1ce22a3e12c1f745316b71678c328eb5f5d3063a842f37cfbe2823");
    let licence = include_str!("../data/LICENSE-vaderSentiment");
    assert!(licence.contains("The MIT License (MIT)") && licence.contains("Copyright (c) 2016 C.J. Hutto"));
}

#[test]
fn every_line_of_the_lexicons_is_read() {
    assert_eq!(lexicon::entries(lexicon::VADER).count(), 7520);
    assert_eq!(lexicon::VADER.lines().count(), 7520);
    assert!(lexicon::entries(lexicon::VADER).all(|(text, _)| text.len() <= Key::MAX_LENGTH));
    let emojis = Emojis::new(lexicon::EMOJI);
    let found: Vec<char> =
        (0..=0x10_ffff).filter_map(char::from_u32).filter(|character| emojis.get(*character).is_some()).collect();
    assert_eq!(found.len(), 1212);
    // What lets ASCII lines past without a look at each character.
    assert!(found.iter().all(|character| !character.is_ascii()));
    assert_eq!(emojis.get('😂'), Some("face with tears of joy"));
    assert_eq!(emojis.get('\u{10ffff}'), None);
}

#[test]
fn an_emote_is_short_has_a_capital_and_a_valence_within_bounds() {
    let mut seen = std::collections::BTreeSet::new();
    let lines = lexicon::EMOTES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lexicon::entries(lexicon::EMOTES).count(), lines.count());
    for (emote, valence) in lexicon::entries(lexicon::EMOTES) {
        assert!(seen.insert(emote), "{emote} is listed twice");
        assert!(emote.is_ascii() && emote.len() <= Key::MAX_LENGTH && !emote.contains(' '), "{emote}");
        assert!(emote.bytes().any(|byte| byte.is_ascii_uppercase()), "{emote} has no capital");
        assert!((-4.0..=4.0).contains(&valence), "{emote}: {valence}");
        let expected = valence / (valence * valence + 15.0_f64).sqrt();
        assert!((emote_score(emote) - expected).abs() < 0.0001, "{emote} is not found");
    }
    assert!(seen.len() >= 100);
}

#[test]
fn no_booster_or_dampener_is_in_the_lexicon() {
    for line in lexicon::MODIFIERS.lines().filter(|line| line.starts_with("boost ") || line.starts_with("dampen ")) {
        let in_lexicon = |word: &&str| lexicon::entries(lexicon::VADER).any(|(text, _)| text == *word);
        assert_eq!(line.split(' ').skip(1).find(in_lexicon), None);
    }
}

#[test]
fn a_table_finds_what_was_put_in_and_nothing_else() {
    let word = |number: u32| format!("w{:x}", number.wrapping_mul(0x9e37_79b1));
    let table = Table::new((0..6000).filter_map(|number| Some((Key::new(word(number).as_bytes())?, number))));
    for number in 0..400_000 {
        let found = Key::new(word(number).as_bytes()).and_then(|key| table.get(key)).copied();
        assert_eq!(found, (number < 6000).then_some(number));
    }
    assert_eq!(Key::new(b"12345678901234567890123").map(Key::lower), Key::new(b"12345678901234567890123"));
    assert_eq!(Key::new(b"123456789012345678901234"), None);
    assert_ne!(Key::new(b"w"), Key::new(b"w\0"));
    // The neighbours of A and Z in ASCII have no lower case.
    assert_eq!(Key::new(b"@AZ[`az{").map(Key::lower), Key::new(b"@az[`az{"));
}

#[test]
fn words_that_negate_boost_and_dampen_do_so() {
    for line in lexicon::MODIFIERS.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let kind = words.next().unwrap();
        for word in words.filter(|word| !lexicon::entries(lexicon::VADER).any(|(text, _)| text == *word)) {
            let (plain, changed) = (score("it was good"), score(&format!("it was {word} good")));
            match kind {
                "boost" => assert!(changed > plain, "{word}"),
                "dampen" => assert!(0.0 < changed && changed < plain, "{word}"),
                "negate" => assert!(changed < 0.0, "{word}"),
                other => panic!("no such kind: {other}"),
            }
        }
    }
}
