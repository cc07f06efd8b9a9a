//! A list of many short texts that is searched with one scan.

use memchr::memmem;

/// Texts without line ends, stored in one string: none needs an allocation of its own, and one scan searches
/// all of them.
#[derive(Debug, Default)]
pub(super) struct NameList {
    /// The texts, each followed by a line end.
    text: String,
    /// The end of each text, before its line end.
    ends: Vec<u32>,
}

impl NameList {
    pub(super) fn push(&mut self, name: &str) {
        self.text.push_str(name);
        // The paths of a folder fit into its manifest of at most 64 MiB, so their length fits into 32 bits.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        self.text.push('\n');
    }

    /// Frees memory that was allocated in advance.
    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(super) fn get(&self, at: usize) -> Option<&str> {
        let end = *self.ends.get(at)? as usize;
        self.text.get(self.start(at)..end)
    }

    /// Returns the numbers of the texts that contain `part`, in order. An empty part is in all of them.
    pub(super) fn containing<'a>(&'a self, part: &'a str) -> impl Iterator<Item = usize> + 'a {
        let finder = memmem::Finder::new(part);
        let mut next = 0;
        std::iter::from_fn(move || {
            if next >= self.ends.len() {
                return None;
            }
            let at = if part.is_empty() {
                next
            } else {
                let from = self.start(next);
                let rest = self.text.as_bytes().get(from..)?;
                let found = from + finder.find(rest)?;
                self.ends.partition_point(|end| (*end as usize) <= found)
            };
            // A name counts once, however often the part is in it.
            next = at + 1;
            Some(at)
        })
    }

    fn start(&self, at: usize) -> usize {
        let before = at.checked_sub(1).and_then(|before| self.ends.get(before));
        before.map_or(0, |end| *end as usize + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn found_names_contain_the_words(
            texts in proptest::collection::vec("[abé]{0,6}", 0..12),
            part in "[abé]{0,3}",
        ) {
            let mut names = NameList::default();
            texts.iter().for_each(|text| names.push(text));
            for (at, text) in texts.iter().enumerate() {
                prop_assert_eq!(names.get(at), Some(text.as_str()));
            }
            prop_assert_eq!(names.get(texts.len()), None);
            let found: Vec<_> = names.containing(&part).collect();
            let with = |at: &usize| texts[*at].contains(&part);
            let expected: Vec<_> = (0..texts.len()).filter(with).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
