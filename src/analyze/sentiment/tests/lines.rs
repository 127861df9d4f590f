//! Lines to compare on: seeded, from all that the rules look at.

use super::super::lexicon;

/// splitmix64: the same lines on every machine and with every version of every library.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// Words that a rule names, with idioms and turns that only work together.
const NAMED: &str = "\
    no|or|nor|never|so|this|without|without a doubt|without doubt|doubt|least|at least|very least|at|very|\
    kind of|kind|of|sort of|just enough|enough|but|the shit|the bomb|bad ass|badass|bus stop|yeah right|\
    kiss of death|to die for|beating heart|never so|never this|not|isn't|ISN'T|n't|can't stand|fed up|NO|BUT|\
    Kind of|the|for|to die|never so very|no more|no or|hand to mouth|break a leg|in the black|under the weather";
const PLAIN: &str = "\
    stream|I|you|it|is|was|movie|and|a|THE|Chat|game|plays|URL|OK|x|he said|lets|gg|PogChamp|Kappa|LUL|1337|2x|ok?";
const HOSTILE: &str = "\
    \0|good\0|\u{301}|e\u{301}|İ|İSTANBUL|ΟΔΥΣΣΕΥΣ|Σ|ß|ẞ|ǅ|ǅA|ﬁne|ſuper|\u{212a}ind|\u{212a}ILL|li\u{212a}e|\
    LI\u{212a}E|\u{a7ce}A|ʕ•ᴥ•ʔ|\u{16ea0}|Ⓐ|ⅷ|ª|Þ|:Þ|:-Þ|\u{200d}|\u{fe0f}|\u{feff}|\u{200b}|\
    😂\u{fe0f}|👨\u{200d}👩\u{200d}👧|❤️|🔛|\
    🆙|🅰|©|®|GOOD©|🙅NO|日本語|хорошо|ХОРОШО|good👍bad|\u{1f3fd}|💘y|!💘|\
    ﷽|aaaaaaaaaaaaaaaaaaaaaaaa|\
    gooooooooooooooooooooooood|''''''|don''t|N'T|xn'ty|'n't'|(good)|((bad))|*love*|-_-|:)|:(|:D|<3|</3|^urs|\
    ( '}{' )|D:|xD|good.bad|good-bad|...|!|?|!!|??|???|????|!!!!!|?!|``|\u{7f}|\u{e0000}|𝐆𝐎𝐎𝐃|ＧＯＯＤ|good\u{ad}";
const SPACES: &str = "\
    \t|\n|\r\n|\u{b}|\u{c}|\u{1c}|\u{1d}|\u{1e}|\u{1f}|\u{85}|\u{a0}|\u{1680}|\u{2003}|\u{2028}|\u{2029}|\
    \u{202f}|\u{205f}|\u{3000}|  |\u{180e}|\u{200b}|";

/// What comes behind a word now and then.
const MARKS: &str = "!|?|!!|??|.|,|...|'|)|;|?!|!!!!!";

/// Makes lines of every kind.
pub(super) struct Lines {
    random: Random,
    lexicon: Vec<&'static str>,
    emoji: Vec<&'static str>,
    modifiers: Vec<&'static str>,
    named: Vec<&'static str>,
    plain: Vec<&'static str>,
    hostile: Vec<&'static str>,
    spaces: Vec<&'static str>,
    marks: Vec<&'static str>,
}

impl Lines {
    pub(super) fn new(seed: u64) -> Self {
        let first_fields = |file: &'static str| file.lines().filter_map(|line| line.split('\t').next()).collect();
        let modifiers = lexicon::MODIFIERS.lines().filter(|line| !line.starts_with('#'));
        let [named, plain, hostile, spaces, marks] =
            [NAMED, PLAIN, HOSTILE, SPACES, MARKS].map(|list| list.split('|').collect());
        Self {
            random: Random::new(seed),
            lexicon: first_fields(lexicon::VADER),
            emoji: first_fields(lexicon::EMOJI),
            modifiers: modifiers.flat_map(|line| line.split(' ').skip(1)).collect(),
            named,
            plain,
            hostile,
            spaces,
            marks,
        }
    }

    pub(super) fn line(&mut self) -> String {
        let words = match self.random.below(50) {
            0 => 0,
            1 => 30 + self.random.below(60),
            2..=9 => 8 + self.random.below(12),
            _ => 1 + self.random.below(8),
        };
        // Some lines have a `but` amid few valences, often equal ones: the rule of the first equal place.
        let few = self.random.one_in(10).then(|| [(); 3].map(|()| self.random.pick(&self.lexicon)));
        let is_shouted = self.random.one_in(12);
        let mut line = String::new();
        for _ in 0..words {
            let word = match few {
                Some(few) => self.random.pick(&[few[0], few[1], few[2], few[0], "but", "so", "the shit", "not", "it"]),
                None => self.word(),
            };
            let word = match self.random.below(9) {
                0 => word.to_uppercase(),
                1 => word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect(),
                _ if is_shouted => word.to_uppercase(),
                _ => word.to_owned(),
            };
            line.push_str(&word);
            if self.random.one_in(8) {
                line.push_str(self.random.pick(&self.marks));
            }
            line.push_str(if self.random.one_in(25) { self.random.pick(&self.spaces) } else { " " });
        }
        line
    }

    fn word(&mut self) -> &'static str {
        match self.random.below(20) {
            0..=6 => self.random.pick(&self.lexicon),
            7..=9 => self.random.pick(&self.modifiers),
            10..=13 => self.random.pick(&self.named),
            14..=16 => self.random.pick(&self.plain),
            17 => self.random.pick(&self.emoji),
            _ => self.random.pick(&self.hostile),
        }
    }

    /// A line of random characters, a third of them anywhere in Unicode, the others close to what means something.
    pub(super) fn noise(&mut self) -> String {
        let length = self.random.below(40);
        (0..length)
            .map(|_| match self.random.below(6) {
                0 => char::from_u32(self.random.below(0x11_0000) as u32).unwrap_or(' '),
                1 => char::from_u32(self.random.below(0x3000) as u32).unwrap_or(' '),
                2 => ' ',
                _ => char::from(self.random.below(128) as u8),
            })
            .collect()
    }
}
