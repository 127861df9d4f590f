//! The same value as the reference, bit for bit.

use super::{
    super::{Scratch, compound::rounded, lexicon},
    lines::{Lines, Random},
    oracle, vader,
};

fn differs(line: &str, scratch: &mut Scratch) -> bool {
    vader().score(line, scratch).to_bits() != oracle().polarity_scores(line).compound.to_bits()
}

/// The shortest line that still differs, found by leaving characters out.
fn shrunk(line: &str) -> String {
    let mut scratch = Scratch::default();
    let mut characters: Vec<char> = line.chars().collect();
    let mut step = characters.len().max(1);
    loop {
        let mut at = 0;
        while at < characters.len() {
            let end = (at + step).min(characters.len());
            let shorter: Vec<char> = [&characters[..at], &characters[end..]].concat();
            if differs(&shorter.iter().collect::<String>(), &mut scratch) {
                characters = shorter;
            } else {
                at += step;
            }
        }
        if step == 1 {
            return characters.into_iter().collect();
        }
        step /= 2;
    }
}

#[track_caller]
fn assert_same(line: &str, scratch: &mut Scratch) {
    if differs(line, scratch) {
        let short = shrunk(line);
        let (ours, theirs) = (vader().score(&short, scratch), oracle().polarity_scores(&short).compound);
        panic!("{short:?} scores {ours}, the reference gives {theirs} (shrunk from {line:?})");
    }
}

#[test]
fn more_than_a_hundred_thousand_lines_score_as_the_reference_scores_them() {
    let (mut lines, mut scratch) = (Lines::new(4), Scratch::default());
    let (mut compared, mut nonzero) = (0, 0);
    for number in 0..120_000 {
        let line = if number % 12 == 0 { lines.noise() } else { lines.line() };
        assert_same(&line, &mut scratch);
        compared += 1;
        nonzero += usize::from(vader().score(&line, &mut scratch) != 0.0);
    }
    println!("{compared} lines compared, {nonzero} of them with a score other than 0");
    assert!(nonzero > compared * 6 / 10);
}

#[test]
fn every_word_and_every_emoji_scores_as_the_reference_scores_it() {
    let mut scratch = Scratch::default();
    for line in [lexicon::VADER, lexicon::EMOJI].concat().lines() {
        let word = line.split('\t').next().unwrap();
        assert_same(word, &mut scratch);
        assert_same(&format!("it is so very {word}!"), &mut scratch);
        assert_same(&word.to_uppercase(), &mut scratch);
    }
    for word in lexicon::MODIFIERS.split_whitespace() {
        assert_same(&format!("they were {word} GOOD, {word} some bad"), &mut scratch);
    }
}

/// Capitals of one word decide whether those of another mean emphasis: that shows what the reference takes for them.
#[test]
fn every_character_has_the_case_that_python_gives_it() {
    let mut scratch = Scratch::default();
    // White space splits and an emoji is replaced before any case matters.
    let is_in_words = |character: &char| {
        !character.is_whitespace()
            && !('\u{1c}'..='\u{1f}').contains(character)
            && vader().lexicon.emojis.get(*character).is_none()
    };
    let (cased, others): (Vec<char>, Vec<char>) =
        (0..=0x10_ffff).filter_map(char::from_u32).filter(is_in_words).partition(|character| {
            character.is_lowercase()
                || character.is_uppercase()
                || character.to_lowercase().ne([*character])
                || character.to_uppercase().ne([*character])
        });
    for character in &cased {
        assert_same(&format!("GOOD {character}"), &mut scratch);
        assert_same(&format!("GOOD {character}A"), &mut scratch);
    }
    // The others by the thousand: one of upper case among them makes the first line differ, one of lower case the second.
    for some in others.chunks(1000) {
        assert_same(&format!("GOOD {}", some.iter().collect::<String>()), &mut scratch);
        let words: String = some.iter().flat_map(|character| [' ', *character, 'A']).collect();
        assert_same(&format!("GOOD{words}"), &mut scratch);
    }
    println!("{} characters of a case, {} without", cased.len(), others.len());
}

/// Phrases whose values cancel out but for the error of the sum, which an exclamation mark then raises to a score or
/// not. Idioms have integers for values, and Python adds these otherwise than floats.
#[test]
fn sums_that_cancel_leave_the_rest_that_python_leaves() {
    let idioms = [("the shit", 3.0), ("yeah right", -2.0), ("sort of the bomb", 3.0 - 0.293)];
    let mut phrases = idioms.map(|(text, value)| (text.to_owned(), value)).to_vec();
    for (word, value) in
        lexicon::entries(lexicon::VADER).filter(|(word, _)| word.bytes().all(|b| b.is_ascii_lowercase()))
    {
        phrases.push((word.to_owned(), value));
        phrases.push((format!("kinda {word}"), value - 0.293_f64.copysign(value)));
    }
    let (mut random, mut scratch) = (Random::new(9), Scratch::default());
    let (mut compared, mut rests) = (0, 0);
    while compared < 10_000 {
        let mut line = String::from(if random.below(4) == 0 { "but" } else { "" });
        let mut sum = 0.0;
        for _ in 0..2 + random.below(4) {
            let among = if random.below(2) == 0 { idioms.len() } else { phrases.len() };
            let (text, value) = &phrases[random.below(among)];
            line.push_str(&format!(" it is on and {text}"));
            sum += value;
        }
        // The last one brings the sum to 0, if there is one that does.
        if let Some((text, _)) = phrases.iter().find(|(_, value)| (sum + value).abs() < 1e-9) {
            line.push_str(&format!(" it is on and {text}!"));
            assert_same(&line, &mut scratch);
            compared += 1;
            rests += usize::from(vader().score(&line, &mut scratch) != 0.0);
        }
    }
    println!("{compared} sums cancel, {rests} of them not quite");
    assert!(rests > 100 && compared - rests > 100);
}

#[test]
fn scores_are_rounded_as_decimal_digits_are() {
    // Halves in binary go to the even digit, and those that binary only comes close to, to their side.
    for number in -10_000..=10_000 {
        for value in [(f64::from(number) + 0.5) / 1e4, f64::from(number) / 1e4, f64::from(number) / 8192.0] {
            let expected: f64 = format!("{value:.4}").parse().unwrap();
            assert_eq!(rounded(value).to_bits(), expected.to_bits(), "{value}");
        }
    }
    assert_eq!((rounded(0.03125), rounded(0.09375), rounded(-0.03125)), (0.0312, 0.0938, -0.0312));
}

#[test]
fn long_lines_score_as_short_ones_do() {
    let mut scratch = Scratch::default();
    let mut lines = Lines::new(11);
    let mixed: Vec<String> = (0..4000).map(|_| lines.line()).collect();
    for line in [
        mixed.concat(),
        "good bad but ".repeat(3000),
        "NOT so GOOD kinda bad! but no or ".repeat(3000),
        "x".repeat(1 << 20),
        "!".repeat(1 << 20),
        "'".repeat(1 << 20),
        "good ".repeat(100_000),
        format!("good but {}", "the bomb was not bad at all ".repeat(15_000)),
        "😂".repeat(1 << 17),
        "\u{301}".repeat(1 << 18),
    ] {
        assert_same(&line, &mut scratch);
    }
    assert_same("good", &mut scratch);
}
