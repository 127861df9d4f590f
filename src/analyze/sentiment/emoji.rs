//! Emoji to the English words that are scored in their place.

const PAGE: usize = 256;

/// Descriptions by character: pages of 256 characters, most of which are absent, so that a character is looked up with
/// two array accesses.
#[derive(Debug)]
pub(super) struct Emojis {
    /// By the character divided by 256, the index of its page; page 0 is empty.
    directory: Vec<u8>,
    /// One more than the index of the description; 0 for none.
    pages: Vec<[u16; PAGE]>,
    descriptions: Vec<&'static str>,
}

impl Emojis {
    /// Reads lines of an emoji, a tab and its description; of two descriptions the later holds. An emoji of several
    /// characters is passed over, as the reference looks at single ones and never finds it.
    pub(super) fn new(file: &'static str) -> Self {
        let mut emojis = Self { directory: Vec::new(), pages: vec![[0; PAGE]], descriptions: Vec::new() };
        for line in file.lines() {
            let mut fields = line.split('\t');
            let (Some(emoji), Some(description)) = (fields.next(), fields.next()) else { continue };
            let mut characters = emoji.chars();
            if let (Some(character), None) = (characters.next(), characters.next()) {
                emojis.insert(character, description);
            }
        }
        emojis
    }

    fn insert(&mut self, character: char, description: &'static str) {
        let (page, place) = (character as usize / PAGE, character as usize % PAGE);
        if self.directory.len() <= page {
            self.directory.resize(page + 1, 0);
        }
        if self.directory[page] == 0 {
            self.directory[page] = self.pages.len() as u8;
            self.pages.push([0; PAGE]);
        }
        self.descriptions.push(description);
        self.pages[usize::from(self.directory[page])][place] = self.descriptions.len() as u16;
    }

    pub(super) fn get(&self, character: char) -> Option<&'static str> {
        let page = *self.directory.get(character as usize / PAGE)?;
        let found = self.pages.get(usize::from(page))?[character as usize % PAGE];
        self.descriptions.get(usize::from(found).checked_sub(1)?).copied()
    }
}
