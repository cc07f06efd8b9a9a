//! Many short texts in one, for a search that runs over all of them.

use memchr::memmem;

/// Texts without line ends, one behind the other: no allocation for each, and one scan for all.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Each ends with a line end.
    text: String,
    /// Where each ends, without it.
    ends: Vec<u32>,
}

impl Names {
    pub(super) fn push(&mut self, name: &str) {
        self.text.push_str(name);
        // The paths of a folder are bounded by its manifest: 64 MiB.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        self.text.push('\n');
    }

    /// Gives back memory that was taken in advance.
    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(super) fn get(&self, at: usize) -> Option<&str> {
        let end = *self.ends.get(at)? as usize;
        self.text.get(self.start(at)..end)
    }

    /// Those that have `part` in them, in order; all where it is empty.
    pub(super) fn containing<'a>(&'a self, part: &'a str) -> impl Iterator<Item = usize> + 'a {
        let finder = memmem::Finder::new(part);
        let mut next = 0;
        std::iter::from_fn(move || {
            if next >= self.ends.len() {
                return None;
            }
            let at = match part.is_empty() {
                true => next,
                false => {
                    let from = self.start(next);
                    let rest = self.text.as_bytes().get(from..)?;
                    let found = from + finder.find(rest)?;
                    self.ends.partition_point(|end| (*end as usize) <= found)
                }
            };
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
        fn what_is_found_is_what_has_it(
            texts in proptest::collection::vec("[abé]{0,6}", 0..12),
            part in "[abé]{0,3}",
        ) {
            let mut names = Names::default();
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
